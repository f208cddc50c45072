"""Bias correction: the bias of each layer takes back the mean error that quantization adds to each channel.

Rounded weights and clipped activations shift the mean of a convolution's outputs (Nagel et al., "Data-Free Quantization
Through Weight Equalization and Bias Correction", arXiv:1906.04721, section 4.2; here the empirical form, from images).
Layers are corrected in order of execution, each behind the corrected layers before it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from yolov6core.quant.graph_ops import quant_conv
from yolov6core.quant.insert import QuantizedModel
from yolov6core.quant.paired_run import visit_convolutions


def correct_biases_(gm: QuantizedModel, images: Tensor) -> dict[str, float]:
    """Correct the biases of all quantized convolutions, in place; float layers stay as they are.

    The float function of the model changes with its biases: compare with the original network.

    Args:
        gm: calibrated model in the dialect of the later export.
        images: one batch [B, 3, H, W] float32 in 0..1 on the model's device. A few images are enough.

    Returns: convolution -> largest correction of a channel.
    """
    shifts: dict[str, float] = {}

    def correct(name: str, source: Tensor, result: Tensor, expected: Tensor) -> Tensor:
        shift = (result - expected).mean(dim=(0, 2, 3), dtype=torch.float64).to(result.dtype)
        conv = quant_conv(gm, name)
        if conv.bias is None:
            conv.bias = nn.Parameter(torch.zeros_like(shift), requires_grad=conv.weight.requires_grad)
        conv.bias.sub_(shift)
        shifts[name] = float(shift.abs().max())
        return result - shift.view(-1, 1, 1)

    visit_convolutions(gm, images, correct)
    return shifts
