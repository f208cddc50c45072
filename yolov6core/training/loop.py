"""One epoch of training: nothing about models, datasets or losses beyond being called."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from yolov6core.training.ema import ModelEma
from yolov6core.training.schedule import Schedule, set_step_

Batch = tuple[Tensor, Tensor]
"""Images uint8 [B, 3, H, W] and targets [M, 6]."""


class NonFiniteLossError(RuntimeError):
    """A loss term became NaN or infinite; the message shows every term."""


@dataclass
class Learner:
    """What one optimisation step changes: weights, their average, the optimiser and the step count."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    ema: ModelEma
    step: int = 0
    max_norm: float = 10.0
    """Largest gradient norm; larger gradients are scaled down to it."""


def train_one_epoch(
    learner: Learner,
    batches: Iterable[Batch],
    compute_losses: Callable[[Batch], Mapping[str, Tensor]],
    weights: Mapping[str, float],
    *,
    freeze_norm: bool = False,
) -> dict[str, float]:
    """Run the batches of one epoch.

    Args:
        learner: changed in place.
        batches: images and targets.
        compute_losses: batch -> named unweighted scalar terms.
        weights: factor of each term; a term without a weight is an error.
        freeze_norm: normalise by the stored statistics, as in use, instead of the batch's, and leave them as they are.

    Returns: the mean of every term over the epoch, and `total`.

    Raises:
        NonFiniteLossError: before the weights are touched by it.
    """
    learner.model.train()
    if freeze_norm:
        for module in learner.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
    sums: dict[str, float] = {}
    count = 0
    for batch in batches:
        set_step_(learner.optimizer, learner.schedule, learner.step)
        terms = compute_losses(batch)
        total = sum(weights[name] * term for name, term in terms.items())
        values = {name: term.item() for name, term in terms.items()} | {"total": total.item()}
        if not all(math.isfinite(value) for value in values.values()):
            shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            raise NonFiniteLossError(
                f"loss is not finite at step {learner.step} ({shown}); lower the learning rate or look at the data"
            )
        learner.optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(learner.model.parameters(), learner.max_norm)
        learner.optimizer.step()
        learner.ema.update(learner.model)
        learner.step += 1
        count += 1
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + value
    if not count:
        raise ValueError("the epoch had no batches: the training split is empty")
    return {name: value / count for name, value in sums.items()}
