"""AdaRound: weights rounded up or down so that the error of the layer's output is smallest.

Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", arXiv:2004.10568: every weight gets a
variable V that decides between its two neighbours on the grid by h(V) = clip(1.2 sigmoid(V) - 0.1, 0, 1) (equation
23). Adam minimizes the layer's squared error plus sum 1 - |2 h - 1|^beta (equation 24). Beta falls from 20 to 2, so
that all h end at 0 or 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from yolov6core.base.saturation import WEIGHT_LEVELS, integer_limits
from yolov6core.quant.fake_quant import QuantConv2d
from yolov6core.quant.graph_ops import quant_conv
from yolov6core.quant.insert import QuantizedModel, freeze_weight_ranges_, state_of
from yolov6core.quant.paired_run import visit_convolutions
from yolov6core.quant.weights import clamp_, weight_scale

ZETA, GAMMA = 1.1, -0.1
"""Limits of the stretched sigmoid, which reaches 0 and 1 at finite V."""


@dataclass(frozen=True)
class Rounding:
    """Mean squared error of a layer's output against the float network, by rounding to nearest and adaptively."""

    nearest: float
    adaptive: float


def round_weights_(
    gm: QuantizedModel, images: Tensor, *, steps: int = 100, lr: float = 0.05, weight: float = 1.0, seed: int = 0
) -> dict[str, Rounding]:
    """Round the weights of all quantized convolutions adaptively, in place, layer after layer.

    A layer whose error does not become smaller keeps its weights. The new weights are points of the grid. The largest
    weight of each channel stays, so that ranges which follow the weights stay as well. Where pairs of weights must not
    overflow, rounding would move the ranges, so they are frozen first.

    Args:
        gm: calibrated model in the dialect of the later export.
        images: one batch [B, 3, H, W] float32 in 0..1 on the model's device.
        steps: Adam steps per layer, on one image each. The paper takes 10,000.
        lr: learning rate of V.
        weight: factor of the regularizer's mean; the squared error is divided by that of rounding to nearest.
        seed: of the order of images.

    Returns: convolution -> its errors.
    """
    if state_of(gm).paired:
        freeze_weight_ranges_(gm)
    errors: dict[str, Rounding] = {}
    generator = torch.Generator().manual_seed(seed)

    def round_layer(name: str, source: Tensor, result: Tensor, expected: Tensor) -> Tensor:
        conv = quant_conv(gm, name)
        nearest = float((result - expected).square().mean())
        order = torch.randint(len(source), (steps,), generator=generator).tolist()
        before = conv.weight.detach().clone()
        with torch.enable_grad():
            unit = max(nearest, 1e-30)
            rounded = _learn_rounding(conv, source, expected, unit=unit, order=order, lr=lr, weight=weight)
        conv.weight.copy_(rounded)
        rerun = conv(source)
        adaptive = float((rerun - expected).square().mean())
        if not adaptive < nearest:
            conv.weight.copy_(before)
            adaptive, rerun = nearest, result
        errors[name] = Rounding(nearest, adaptive)
        return rerun

    visit_convolutions(gm, images, round_layer)
    return errors


def _learn_rounding(
    conv: QuantConv2d, source: Tensor, expected: Tensor, *, unit: float, order: list[int], lr: float, weight: float
) -> Tensor:
    """Weights [O, I / groups, kh, kw] on the grid; `order`: the image of each step, `unit`: divisor of the error."""
    scale = weight_scale(conv.weight_range()).view(-1, 1, 1, 1)
    steps = (conv.weight.detach() / scale).clamp(-WEIGHT_LEVELS, WEIGHT_LEVELS)
    floor = steps.floor()
    fraction = steps - floor
    # V starts where h is the fraction that rounding cuts off: there the soft weights are the float ones.
    soft = torch.logit((fraction - GAMMA) / (ZETA - GAMMA)).requires_grad_(True)
    optimizer = torch.optim.Adam([soft], lr=lr)
    for step, image in enumerate(order):
        h = (torch.sigmoid(soft) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)
        output = conv._conv_forward(source[image : image + 1], (floor + h) * scale, conv.bias)
        beta = 20 - 18 * step / max(len(order) - 1, 1)
        undecided = (1 - (2 * h - 1).abs().pow(beta)).mean()
        loss = (output - expected[image : image + 1]).square().mean() / unit + weight * undecided
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # A weight on the grid stays, so the largest one of each channel, which sets the scale, stays too.
    up = (soft.detach() > 0) & (fraction > 0)
    integers = floor + up
    limit = integer_limits(integers, conv.pair_groups)
    return clamp_(integers, -limit, limit) * scale
