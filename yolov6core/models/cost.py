"""Cost of a network: parameters, and arithmetic of its convolutions."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from yolov6core.models.blocks import deploy_


@dataclass(frozen=True)
class Cost:
    """Numbers of one network at one image size."""

    parameters: int
    """Of the training form."""
    deployed_parameters: int
    """With batch norm folded and every block one convolution."""
    gflops: float
    """Of the deployed form, in 1e9 operations: two per multiply-add of the convolutions, as is usual."""


def cost_of(model: nn.Module, *, image_size: tuple[int, int] = (640, 640)) -> Cost:
    """Cost of a network in its training form, which is not changed; no arithmetic is done on its device."""
    deployed = deploy_(copy.deepcopy(model).eval())
    return Cost(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        deployed_parameters=sum(parameter.numel() for parameter in deployed.parameters()),
        gflops=2 * convolution_macs(deployed, image_size=image_size) / 1e9,
    )


@torch.no_grad()
def convolution_macs(
    model: nn.Module,
    *,
    image_size: tuple[int, int],
    kinds: tuple[type[nn.Module], ...] = (nn.Conv2d, nn.ConvTranspose2d),
) -> int:
    """Multiply-adds of convolutions of these kinds for one image (height, width); moves `model` to the meta device."""
    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        # every weight meets every pixel of the output, or of the input where the convolution is transposed
        pixels = inputs[0] if isinstance(module, nn.ConvTranspose2d) else output
        weight = module.weight
        assert isinstance(weight, Tensor), "modules of `kinds` are convolutions"
        total += weight.numel() * pixels.shape[-2] * pixels.shape[-1]

    handles = [module.register_forward_hook(count) for module in model.modules() if isinstance(module, kinds)]
    model.to("meta")(torch.empty(1, 3, *image_size, device="meta"))
    for handle in handles:
        handle.remove()
    return total
