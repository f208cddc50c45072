"""Fake quantization with a scale that is learned: LSQ, learned step size quantization (1902.08153)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from yolov6core.quant.spec import MIN_SCALE
from yolov6core.quant.weights import clamp_


class _RoundByStep(torch.autograd.Function):
    """Fake quantization whose step is learned; see `learned_quantize`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, low: int | Tensor, high: int | Tensor, factor: float) -> Tensor:
        step = step.clamp_min(MIN_SCALE)  # in here, so that a negative step still has a gradient
        ratio = x * step.reciprocal()
        inside = (ratio > low) & (ratio < high)
        integers = clamp_(ratio.round_(), low, high)
        # Not the result, which an activation behind it may change in place.
        ctx.save_for_backward(x, step, inside, integers)
        ctx.factor = factor
        return integers * step

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        x, step, inside, integers = ctx.saved_tensors
        passed = gradient * inside
        # Equations 3 and 5. By step: round(x / step) - x / step inside the range, the limit of the range beyond it.
        by_step = (gradient * (integers * step) - passed * x).sum_to_size(step.shape)
        return passed, by_step / step * ctx.factor, None, None, None


def learned_quantize(x: Tensor, step: Tensor, *, low: int | Tensor, high: int | Tensor, sharing: int) -> Tensor:
    """Round float32 `x` to the multiples low .. high of `step` with a gradient for the step (LSQ, 1902.08153).

    Args:
        x: any shape; its gradient passes inside the range.
        step: float32, broadcasts to the shape of `x`. Kept positive.
        low, high: integer limits minus the zero point; tensors of the shape of `x` if they differ between values.
        sharing: number of values of `x` (of one image) that share a step. The step's gradient is divided by
            sqrt(sharing * high), so that steps learn about as fast as weights (section 2.2).
    """
    if x.dtype != torch.float32:
        return learned_quantize(x.float(), step, low=low, high=high, sharing=sharing).to(x.dtype)
    levels = high if isinstance(high, int) else int(high.max())
    return _RoundByStep.apply(x, step, low, high, (sharing * max(levels, 1)) ** -0.5)
