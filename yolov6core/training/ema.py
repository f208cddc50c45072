"""Exponential moving average of the weights."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn


class ModelEma:
    """Keeps a copy of a model whose floating-point tensors follow the original slowly.

    The decay of update t is `decay * (1 - exp(-t / ramp))`, so that early averages forget the random start. Decay and
    ramp are bounded by the length of the training: an average over 10,000 steps is no use in a training of 500.
    """

    def __init__(self, model: nn.Module, *, total_steps: int, decay: float = 0.9999, ramp: float = 2000) -> None:
        self.model = copy.deepcopy(model).eval()
        self.model.requires_grad_(False)
        self.decay = min(decay, 1 - 1 / max(0.05 * total_steps, 1.0)) if total_steps > 20 else 0.0
        self.ramp = min(ramp, max(total_steps / 10, 1.0))
        self.updates = 0

    def decay_at(self, updates: int) -> float:
        """Weight of the old average at this update count (from 1)."""
        return self.decay * (1 - math.exp(-updates / self.ramp))

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards `model` by one step; integer tensors (batch counts) are copied."""
        self.updates += 1
        decay = self.decay_at(self.updates)
        current = model.state_dict()
        floats, targets = [], []
        for name, average in self.model.state_dict().items():
            if average.dtype.is_floating_point:
                floats.append(average)
                targets.append(current[name])
            else:
                average.copy_(current[name])
        torch._foreach_lerp_(floats, targets, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]  # no public name
