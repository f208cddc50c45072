"""Fake quantization with a scale that is learned: LSQ, learned step size quantization (1902.08153)."""

from __future__ import annotations

import torch
from torch import Tensor

from yolov6core.quant.spec import MIN_SCALE


class _RoundByStep(torch.autograd.Function):
    """Fake quantization whose step is learned; see `learned_quantize`."""

    @staticmethod
    def forward(ctx, x: Tensor, step: Tensor, low: int | Tensor, high: int | Tensor, factor: float) -> Tensor:
        step = step.clamp_min(MIN_SCALE)  # here, so that a step that fell below zero still has a gradient
        ratio = x * step.reciprocal()
        inside = (ratio > low) & (ratio < high)
        rounded = ratio.round_().clamp_(low, high).mul_(step)
        ctx.save_for_backward(x, step, inside, rounded)
        ctx.factor = factor
        return rounded

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, step, inside, rounded = ctx.saved_tensors
        passed = gradient * inside
        # Equations 3 and 5. By step: round(x / step) - x / step inside the range, the range's end beyond it.
        moved = (gradient * rounded - passed * x).sum_to_size(step.shape)
        return passed, moved / step * ctx.factor, None, None, None


def learned_quantize(x: Tensor, step: Tensor, *, low: int | Tensor, high: int | Tensor, sharing: int) -> Tensor:
    """Round float32 `x` to the multiples low .. high of `step` with a gradient for the step (LSQ, 1902.08153).

    Args:
        x: any shape; its gradient passes inside the range.
        step: float32, of a shape that broadcasts to that of `x`. Kept positive.
        low, high: multiples, zero point taken off; of the shape of `x` where they differ from value to value.
        sharing: how many values of `x` (of one image) share a step. The step's gradient is divided by
            sqrt(sharing * high), so that steps learn about as fast as weights (section 2.2).
    """
    if x.dtype != torch.float32:
        return learned_quantize(x.float(), step, low=low, high=high, sharing=sharing).to(x.dtype)
    levels = high if isinstance(high, int) else int(high.max())
    return _RoundByStep.apply(x, step, low, high, (sharing * max(levels, 1)) ** -0.5)
