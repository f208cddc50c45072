"""RepOptimizer (2205.15242): train one plain convolution as if it were the scaled branches of the hyper-search.

The search's branches `s3 * 3x3(x) + s1 * 1x1(x) + s0 * x` and a single 3x3 convolution follow the same path if the
single kernel starts at the branches' sum and its gradient is multiplied by constants made from the scales. The
multiplication is a hook on the parameter's gradient: any optimiser works and gradient accumulation stays right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from yolov6core.base.checkpoint import load_checkpoint, save_checkpoint


@dataclass(frozen=True)
class BlockScales:
    """Scales per output channel of one block, [O] float32; `identity` is None where the block changes the shape."""

    dense: Tensor
    pointwise: Tensor
    identity: Tensor | None


def scales_from_state(state: Mapping[str, Tensor]) -> dict[str, BlockScales]:
    """Collect the scales of a searched network, block name -> scales, in the order of the state dictionary."""
    suffix = ".scale_conv.weight"
    blocks = [name.removesuffix(suffix) for name in state if name.endswith(suffix)]
    return {
        block: BlockScales(
            dense=state[block + suffix].detach().float().clone(),
            pointwise=state[f"{block}.scale_pointwise.weight"].detach().float().clone(),
            identity=state[f"{block}.scale_identity.weight"].detach().float().clone()
            if f"{block}.scale_identity.weight" in state
            else None,
        )
        for block in blocks
    }


def scales_to_tensors(scales: Mapping[str, BlockScales]) -> dict[str, Tensor]:
    """Flat `block/kind` -> [O] for a checkpoint; `scales_from_tensors` reads it back."""
    kinds = ("dense", "pointwise", "identity")
    return {
        f"{block}/{kind}": getattr(item, kind)
        for block, item in scales.items()
        for kind in kinds
        if getattr(item, kind) is not None
    }


def save_scales(path: Path, scales: Mapping[str, BlockScales], *, variant: str) -> None:
    """Write a file of scales, and the variant that they were searched for."""
    save_checkpoint(path, scales_to_tensors(scales), {"variant": variant})


def load_scales(path: Path) -> tuple[dict[str, BlockScales], str | None]:
    """Scales of a file by `save_scales`, and their variant.

    Raises:
        ValueError: it is no such file.
    """
    tensors, meta = load_checkpoint(path)
    if any("/" not in name for name in tensors):
        raise ValueError(f"{path} holds tensors of a network, not scales; give a scales.safetensors of search-scales")
    return scales_from_tensors(tensors), meta.get("variant")


def scales_from_tensors(tensors: Mapping[str, Tensor]) -> dict[str, BlockScales]:
    """Inverse of `scales_to_tensors`."""
    blocks = sorted({name.rsplit("/", 1)[0] for name in tensors})
    return {
        block: BlockScales(tensors[f"{block}/dense"], tensors[f"{block}/pointwise"], tensors.get(f"{block}/identity"))
        for block in blocks
    }


def reinitialized_kernel(dense: Tensor, pointwise: Tensor, scales: BlockScales) -> Tensor:
    """The branches' sum as one kernel [O, I, 3, 3] (2205.15242, re-initialisation).

    Args:
        dense: fresh 3x3 kernel [O, I, 3, 3].
        pointwise: fresh 1x1 kernel [O, I, 1, 1].
        scales: of this block.
    """
    kernel = dense * scales.dense.reshape(-1, 1, 1, 1)
    kernel[:, :, 1:2, 1:2] += pointwise * scales.pointwise.reshape(-1, 1, 1, 1)
    if scales.identity is not None:
        kernel[:, :, 1, 1] += torch.diag(scales.identity)
    return kernel


def gradient_multiplier(shape: torch.Size, scales: BlockScales) -> Tensor:
    """Constant that the kernel's gradient is multiplied by, [O, I, 3, 3] (2205.15242, Grad Mult).

    s3^2 everywhere, plus s1^2 in the middle, plus 1 in the middle of a channel's own input where the block has an
    identity branch (its identity counts as an unscaled trainable branch, whatever scale the search gave it).
    """
    multiplier = scales.dense.square().reshape(-1, 1, 1, 1).expand(shape).clone()
    multiplier[:, :, 1:2, 1:2] += scales.pointwise.square().reshape(-1, 1, 1, 1)
    if scales.identity is not None:
        multiplier[:, :, 1, 1] += torch.eye(shape[0], shape[1])
    return multiplier


def apply_scales_(model: nn.Module, scales: Mapping[str, BlockScales], *, generator: torch.Generator) -> None:
    """Re-initialise the kernels of a plain network from the search's scales, in place.

    Raises:
        ValueError: the scales belong to another network (block names or channel counts differ).
    """
    convs = dict(scaled_convolutions(model, scales))
    with torch.no_grad():
        for block, conv in convs.items():
            pointwise = torch.empty(conv.out_channels, conv.in_channels, 1, 1)
            bound = conv.in_channels**-0.5  # what nn.Conv2d draws a 1x1 kernel from
            pointwise.uniform_(-bound, bound, generator=generator)
            dense = conv.weight.detach().cpu().clone()  # drawn and computed on the CPU: the same start on any device
            conv.weight.copy_(reinitialized_kernel(dense, pointwise, scales[block]))


def attach_multipliers(model: nn.Module, scales: Mapping[str, BlockScales]) -> Callable[[], None]:
    """Multiply the gradients of the scaled kernels from now on; returns a function that stops it.

    Copies of the model (deepcopy, EMA) do not inherit the hooks.
    """
    handles = []
    for block, conv in scaled_convolutions(model, scales):
        multiplier = gradient_multiplier(conv.weight.shape, scales[block]).to(conv.weight)
        handles.append(conv.weight.register_hook(lambda grad, multiplier=multiplier: grad * multiplier))

    def stop() -> None:
        for handle in handles:
            handle.remove()

    return stop


def scaled_convolutions(model: nn.Module, scales: Mapping[str, BlockScales]) -> list[tuple[str, nn.Conv2d]]:
    """The convolution of every block that has scales, checked against their shape.

    Raises:
        ValueError: a block is unknown to the network, or its channel count differs.
    """
    modules = dict(model.named_modules())
    problems, convs = [], []
    for block, item in scales.items():
        conv = getattr(modules.get(block), "conv", None)
        if not isinstance(conv, nn.Conv2d):
            problems.append(f"{block}: the network has no such block")
        elif conv.out_channels != item.dense.shape[0]:
            problems.append(f"{block}: {item.dense.shape[0]} scales for {conv.out_channels} channels")
        elif (item.identity is not None) != (conv.in_channels == conv.out_channels and conv.stride == (1, 1)):
            problems.append(f"{block}: identity scales do not fit {conv.in_channels} -> {conv.out_channels} channels")
        else:
            convs.append((block, conv))
    if problems or not scales:
        raise ValueError(
            f"the scales do not belong to this network ({len(problems)} of {len(scales)} blocks differ): "
            + "; ".join(problems[:5])
            + ". Search scales for this variant, or give its own scales file"
        )
    return convs


def scale_health(scales: Mapping[str, BlockScales]) -> list[dict[str, float | str]]:
    """One row per block and branch: mean, spread, extremes, and mean distance from the initial value of one.

    A search that was too short leaves every scale near one: `moved` then stays near zero.
    """
    rows = []
    for name, tensor in scales_to_tensors(scales).items():
        block, branch = name.rsplit("/", 1)
        rows.append(
            {
                "block": block,
                "branch": branch,
                "channels": tensor.numel(),
                "mean": tensor.mean().item(),
                "std": tensor.std(unbiased=False).item(),
                "min": tensor.min().item(),
                "max": tensor.max().item(),
                "moved": (tensor - 1).abs().mean().item(),
            }
        )
    return rows
