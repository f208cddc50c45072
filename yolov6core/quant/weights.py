"""Rounding of weights: one symmetric scale per output channel, and integers that suit the CPU's sums."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from yolov6core.base.saturation import WEIGHT_LEVELS, integer_limits
from yolov6core.quant.spec import MIN_SCALE


class _RoundWeights(torch.autograd.Function):
    """Per-output-channel symmetric fake quantization of weights [O, ...] by scales [O]."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scale: Tensor, clips: bool, pair_groups: int | None) -> Tensor:
        ctx.clips = clips
        shape = (-1, *[1] * (weight.dim() - 1))
        rounded = (weight * scale.reciprocal().view(shape)).round_()
        if clips:
            limit = integer_limits(rounded, pair_groups)
            ctx.save_for_backward(rounded.abs() <= limit)
            clamp_(rounded, -limit, limit)
        return rounded.mul_(scale.view(shape))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        return gradient * ctx.saved_tensors[0] if ctx.clips else gradient, None, None, None


def clamp_(values: Tensor, low: int | Tensor, high: int | Tensor) -> Tensor:
    """Clamp in place to two integers, or to two tensors that broadcast to `values`."""
    if isinstance(low, Tensor) and isinstance(high, Tensor):
        return values.clamp_(low, high)
    assert isinstance(low, int) and isinstance(high, int), "torch takes two numbers or two tensors"
    return values.clamp_(low, high)


def weight_scale(peak: Tensor) -> Tensor:
    """Scales [O], float32, of output channels with the peaks [O] of `channel_amax`; a channel of zeros gets scale 1."""
    scale = peak.float() / WEIGHT_LEVELS
    return torch.where(peak > 0, scale.clamp_min(MIN_SCALE), torch.ones_like(scale))


def fake_quantize_weights(weight: Tensor, scale: Tensor, *, clips: bool, pair_groups: int | None = None) -> Tensor:
    """Round weights [O, ...] to -127 .. 127 steps of one scale [O] per output channel, and back.

    Args:
        weight: float32.
        scale: see `weight_scale`.
        clips: whether weights beyond the grid can occur. If not, neither a clamp nor a gradient mask is needed.
        pair_groups: see `integer_limits`; used only if weights are clipped.
    """
    if weight.is_cuda and pair_groups is None:
        zero = torch.zeros_like(scale, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -WEIGHT_LEVELS, WEIGHT_LEVELS)
    return _RoundWeights.apply(weight, scale, clips, pair_groups)
