"""A network with the decoding of its raw outputs behind it: for evaluation, export and comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from yolov6core.models.head import decode

Predict = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Images float32 [B, 3, H, W] in 0..1 to boxes [B, A, 4] xyxy pixels and scores [B, A, C]."""


class DecodedNetwork(nn.Module):
    """Images [B, 3, H, W] to boxes [B, A, 4] xyxy in pixels of the input and scores [B, A, C] in 0..1.

    The decoding is never quantized.
    """

    def __init__(
        self, network: nn.Module, *, strides: Sequence[int], image_size: tuple[int, int] | None = None
    ) -> None:
        """Args:
        network: float or quantized, gives raw outputs (see `DecoupledHead`).
        image_size: (height, width) of all inputs, which an export needs as a constant; None: that of each input.
        """
        super().__init__()
        self.network, self.strides, self.image_size = network, tuple(strides), image_size

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        size = self.image_size or (images.shape[-2], images.shape[-1])
        cls_logits, distances = self.network(images)
        return decode(cls_logits, distances, image_size=size, strides=self.strides)


def predictor(network: nn.Module, strides: Sequence[int]) -> Predict:
    """The network as a function on the CPU's tensors, wherever it computes itself."""
    device = next(network.parameters()).device
    decoded = DecodedNetwork(network, strides=strides)

    @torch.inference_mode()
    def predict(images: Tensor) -> tuple[Tensor, Tensor]:
        boxes, scores = decoded(images.to(device, memory_format=torch.channels_last))
        return boxes.cpu(), scores.cpu()

    return predict


@torch.inference_mode()
def run_module(module: nn.Module, images: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Run a module that maps images [B, 3, H, W] to (boxes, scores) on arrays, on the device of the module."""
    boxes, scores = module(torch.from_numpy(images).to(next(module.parameters()).device))
    return boxes.cpu().numpy(), scores.cpu().numpy()
