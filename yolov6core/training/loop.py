"""One epoch of training: nothing about models, datasets or losses beyond being called."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from itertools import islice
from operator import add

import torch
from torch import Tensor, nn

from yolov6core.training.schedule import set_step_
from yolov6core.training.train_state import TrainState

Batch = tuple[Tensor, Tensor]
"""Images uint8 [B, 3, H, W] and targets [M, 6]."""


class NonFiniteLossError(RuntimeError):
    """A loss term became NaN or infinite; the message shows every term, `batch` is what gave them."""

    def __init__(self, message: str, batch: Batch) -> None:
        super().__init__(message)
        self.batch = batch


@dataclass
class EpochProgress:
    """How far an epoch has come: batches done, and the sum of every loss term over them."""

    batches: int = 0
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, values: Mapping[str, float]) -> None:
        """Count one batch."""
        self.batches += 1
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def copy(self) -> EpochProgress:
        """The same figures, which stay as they are when this goes on."""
        return EpochProgress(self.batches, dict(self.sums))

    def means(self) -> dict[str, float]:
        """The mean of every term so far."""
        return {name: value / self.batches for name, value in self.sums.items()}


def train_one_epoch(
    state: TrainState,
    batches: Iterable[Batch],
    compute_losses: Callable[[Batch], Mapping[str, Tensor]],
    weights: Mapping[str, float],
    *,
    freeze_norm: bool = False,
    progress: EpochProgress | None = None,
    after_step: Callable[[EpochProgress], None] = lambda progress: None,
) -> dict[str, float]:
    """Run the batches of one epoch.

    Args:
        state: changed in place.
        batches: images and targets; those that are left, where `progress` has some already.
        compute_losses: batch -> named unweighted scalar terms.
        weights: factor of each term; a term without a weight is an error.
        freeze_norm: normalise by the stored statistics, as in use, instead of the batch's, and leave them as they are.
        progress: of an interrupted epoch that is continued; changed in place.
        after_step: called after every optimisation step; state and progress are then all that is needed to continue.
            What it raises ends the epoch.

    Returns: the mean of every term over the epoch, and `total`.

    Raises:
        NonFiniteLossError: before the weights are touched by it.
    """
    state.model.train()
    if freeze_norm:
        for module in state.model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):  # the synchronised one too
                module.eval()
    progress = EpochProgress() if progress is None else progress
    for window in _windows(batches, state.accumulate):
        set_step_(state.optimizer, state.schedule, state.step)
        state.optimizer.zero_grad(set_to_none=True)
        for batch in window:
            terms = compute_losses(batch)
            total = reduce(add, (weights[name] * term for name, term in terms.items()))
            mean = total / len(window)
            (mean if state.scaler is None else state.scaler.scale(mean)).backward()
            # Only now, because reading a number waits for the device: the backward pass is on its way meanwhile.
            progress.add(_finite({**terms, "total": total}, batch, state))
        _update(state)
        after_step(progress)
    if not progress.batches:
        raise ValueError("the epoch had no batches: the training split is empty")
    return progress.means()


def _windows(batches: Iterable[Batch], length: int) -> Iterator[list[Batch]]:
    """Batches in lists of `length`, the last one as long as it comes."""
    iterator = iter(batches)
    while window := list(islice(iterator, length)):
        yield window


def _finite(terms: Mapping[str, Tensor], batch: Batch, state: TrainState) -> dict[str, float]:
    """The terms as numbers, over all processes; one transfer for all."""
    numbers = state.processes.mean(torch.stack([term.detach() for term in terms.values()])).tolist()
    values = dict(zip(terms, numbers, strict=True))
    if not all(math.isfinite(value) for value in numbers):
        shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        raise NonFiniteLossError(
            f"loss is not finite at step {state.step} ({shown}); lower the learning rate or look at the data", batch
        )
    return values


def _update(state: TrainState) -> None:
    """One step of the optimiser on the gradients there are, and of the average."""
    if state.scaler is not None:
        state.scaler.unscale_(state.optimizer)
    clip_gradients_(state.model, state.grad_clip_norm)
    if state.scaler is None:
        state.optimizer.step()
    else:
        state.scaler.step(state.optimizer)
        state.scaler.update()
    state.ema.update(state.model)
    state.step += 1


def clip_gradients_(model: nn.Module, max_norm: float) -> None:
    """`nn.utils.clip_grad_norm_`, without its product where the factor is 1: a pass over all gradients for nothing.

    On a GPU the factor is not looked at, because that would wait for the device.
    """
    norm = nn.utils.get_total_norm([item.grad for item in model.parameters() if item.grad is not None])
    if norm.is_cuda or not max_norm / (norm + 1e-6) >= 1:  # not: NaN, too
        nn.utils.clip_grads_with_norm_(model.parameters(), max_norm, norm)
