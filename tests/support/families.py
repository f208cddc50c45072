"""Narrow networks of every family with made-up weights: float, and quantized so that every sum is exact."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from torch import Tensor, nn

from yolov6core.base.saturation import CpuSums
from yolov6core.models.blocks import deploy_
from yolov6core.models.detector import build_detector
from yolov6core.models.variants import VARIANTS
from yolov6core.quant.calibrate import collect, ranges
from yolov6core.quant.insert import (
    QuantizedModel,
    convolution_names,
    describe,
    freeze_weight_ranges_,
    insert_quantizers,
    ready_for_export_,
    set_ranges_,
)
from yolov6core.quant.observers import Method

FAMILIES = {
    "yolov6n_v2": "concat fusion, distances",
    "yolov6n": "BiFusion, CSP pooling",
    "yolov6m": "CSP stages with shortcuts, distance bins",
    "yolov6n6": "four levels",
    "yolov6s_mbla": "chunk, SiLU",
    "yolov6_lite_s": "depthwise, squeeze-and-excitation, hard-swish, channel shuffle, nearest upsampling",
}
CLASSES = 3
IMAGE = (64, 128)
"""Height and width: not square, and one cell high at stride 64."""


def pixels(count: int, seed: int = 0) -> np.ndarray:
    """Images [count, 3, H, W] float32 as the data loader makes them: whole numbers over 255."""
    return np.random.default_rng(seed).integers(0, 256, (count, 3, *IMAGE)).astype(np.float32) / np.float32(255)


def float_network(name: str, *, piecewise: bool = False) -> tuple[nn.Module, tuple[int, ...]]:
    """A deployed network with the structure of a variant and a sixteenth of its width; its strides.

    Args:
        piecewise: only activations that are exact in float: ReLU for SiLU and hard-swish, a clamp for hard-sigmoid.
    """
    spec = dataclasses.replace(VARIANTS[name], width=0.0625, depth=0.17)
    torch.manual_seed(0)
    network = build_detector(spec, num_classes=CLASSES).train()
    if piecewise:
        _piecewise(network)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    for layer in (*network.head.cls_preds, *network.head.reg_preds):
        nn.init.normal_(layer.weight, std=0.1)
    with torch.no_grad():
        network(torch.from_numpy(pixels(4, seed=1)))
    return deploy_(network.eval()), spec.strides


def exact_network(network: nn.Module, dialect: str, cpu: CpuSums = "exact") -> QuantizedModel:
    """A quantized copy in which runtimes that round at the same places give the same numbers, however they add.

    Every scale is a power of two and every bias a multiple of s_x * s_w. Without that a difference in the last bit
    flips a rounding, and flips multiply from layer to layer.

    Args:
        network: of `float_network(..., piecewise=True)`; stays as it is.
        cpu: see `insert_quantizers`.
    """
    gm = insert_quantizers(network, dialect_name=dialect, cpu=cpu)
    freeze_weight_ranges_(gm)
    for name in convolution_names(gm):
        amax = gm.get_submodule(name).weight_amax
        amax.copy_(127 * torch.exp2((amax / 127).log2().ceil()))
    found = ranges(collect(gm, [dyadic(torch.from_numpy(pixels(4, seed=1)))]), Method("max"))
    set_ranges_(gm, {name: _power_of_two(*bounds, dialect) for name, bounds in found.items()})
    _snap_biases(gm)
    return ready_for_export_(gm)


def dyadic(images: Tensor | np.ndarray) -> Tensor | np.ndarray:
    """Images on the grid of 1 / 64."""
    return (images * 64).round() / 64


def _piecewise(network: nn.Module) -> None:
    for name, child in network.named_children():
        if isinstance(child, nn.SiLU | nn.Hardswish):
            setattr(network, name, nn.ReLU())
        elif isinstance(child, nn.Hardsigmoid):
            setattr(network, name, nn.Hardtanh(0.0, 1.0))
        else:
            _piecewise(child)


@torch.no_grad()
def _snap_biases(gm: QuantizedModel) -> None:
    """Round each bias to what ONNX Runtime stores as int32."""
    for row in describe(gm):
        if row.quantized:
            conv = gm.get_submodule(row.name)
            step = row.input_scale * conv.weight_amax / 127
            conv.bias.copy_((conv.bias / step).round() * step)


def _power_of_two(amin: float, amax: float, dialect: str) -> tuple[float, float]:
    """A wider range whose scale is a power of two, with and without its negative part."""
    levels = 255 if dialect == "ort" or (dialect == "openvino" and amin >= 0) else 127
    bound = levels * 2.0 ** math.ceil(math.log2(max(-amin, amax, 1e-6) / levels))
    return (0.0 if amin >= 0 else -bound), bound
