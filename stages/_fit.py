"""A training run: epochs, evaluation, best weights; what keeps it through interruptions is in `_keeper`."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from stages._keeper import CtrlC, Keeper, exclusive, explained
from stages._params import Bounds
from stages._report import fingerprint
from yolov6core.errors import logger

if TYPE_CHECKING:
    from torch import Tensor, nn

    from yolov6core.training.loop import Learner

STATE_ROOT = Path(".ckpt")
"""Where interrupted runs keep their state: ignored by Git and DVC, deleted when a run ends."""


@dataclass(frozen=True)
class LoopParams:
    """What every training has in common: length, optimisation, evaluation rhythm."""

    epochs: Annotated[int, Bounds(1, 100_000)]
    batch_size: Annotated[int, Bounds(1, 4096)]
    lr: Annotated[float, Bounds(0, 10)]
    final_lr_factor: Annotated[float, Bounds(0, 1)]
    momentum: Annotated[float, Bounds(0, 0.9999)]
    weight_decay: Annotated[float, Bounds(0, 1)]
    warmup_epochs: Annotated[float, Bounds(0, 1000)]
    plain_epochs: Annotated[int, Bounds(0, 100_000)]
    iou: Literal["iou", "giou", "diou", "ciou", "siou"]
    eval_every: Annotated[int, Bounds(1, 100_000)]
    seed: int


@dataclass
class Fit:
    """A run in progress, or its result: the best weights on the select split and one row an epoch."""

    best_merit: float = -math.inf
    best_epoch: int = 0
    best_state: dict[str, Tensor] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)


def fit(
    learner: Learner,
    *,
    recipe: LoopParams,
    batches: Callable[[int, int], Iterable],
    compute_losses: Callable[[Any, int], Mapping[str, Tensor]],
    weights: Mapping[str, float],
    evaluate: Callable[[nn.Module], Mapping[str, float]],
    state: Path,
    freeze_norm_epochs: int = 0,
) -> Fit:
    """Train for `recipe.epochs` epochs and keep the averaged weights that score best on the select split.

    Args:
        learner: model, optimiser, schedule and average; ends at the last step.
        recipe: needs `epochs` and `eval_every`; the last epoch is always evaluated.
        batches: (epoch, first) -> its batches from number `first` on, the same on every call.
        compute_losses: (batch, epoch) -> named unweighted terms.
        weights: factor of every term.
        evaluate: averaged model -> `map50_95` and `map50` on the select split; where it gives `merit`, the best is
            chosen by that, otherwise by `map50_95`.
        state: where an interrupted run continues from.
        freeze_norm_epochs: last epochs in which batch norm uses its stored statistics. In small batches an image with
            extreme activations normalises itself; in use it does not, and the weights should have seen that.

    Raises:
        Interrupted: Ctrl-C, after the step was finished and saved.
        UserError: a loss is not finite, the disk is full, or the same training is running already.
    """
    from yolov6core.training.loop import train_one_epoch

    with exclusive(state.parent, learner.ranks), CtrlC() as ctrl_c:
        keeper = Keeper(state, learner, ctrl_c)
        run = Fit()
        course = keeper.restore(run, recipe.epochs)
        for epoch in range(keeper.epoch, recipe.epochs):
            started = time.perf_counter()
            keeper.epoch = epoch
            with explained(state, learner.ranks.rank):
                losses = train_one_epoch(
                    learner,
                    batches(epoch, course.batches),
                    lambda batch, epoch=epoch: compute_losses(batch, epoch),
                    weights,
                    freeze_norm=epoch >= recipe.epochs - freeze_norm_epochs,
                    course=course,
                    after_step=keeper.after_step,
                )
            row = {"epoch": epoch + 1, "lr": learner.schedule.lr(learner.step - 1), **losses}
            if (epoch + 1) % recipe.eval_every == 0 or epoch + 1 == recipe.epochs:
                learner.ranks.follow_main_(learner.ema.model)
                row |= _keep_best(run, evaluate, learner.ema.model, epoch + 1)
            run.rows.append(row)
            _log_epoch(row, recipe.epochs, time.perf_counter() - started)
            course = keeper.after_epoch()
    return run


def _keep_best(
    run: Fit, evaluate: Callable[[nn.Module], Mapping[str, float]], model: nn.Module, epoch: int
) -> dict[str, float]:
    scores = evaluate(model)
    merit = scores.get("merit", scores["map50_95"])
    if merit > run.best_merit:
        run.best_merit, run.best_epoch = merit, epoch
        run.best_state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    return {name: scores[name] for name in ("map50_95", "map50", "agreement") if name in scores}


def _log_epoch(row: Mapping[str, float], epochs: int, seconds: float) -> None:
    shown = "  ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "epoch")
    logger.info("epoch %d/%d  %s  (%.1f s)", row["epoch"], epochs, shown, seconds)


def finish(state: Path) -> None:
    """Drop the state of a run that has ended and whose outputs are written."""
    shutil.rmtree(state.parent, ignore_errors=True)


def state_path(stage: str, *parts: Any, inputs: tuple[Path, ...] = ()) -> Path:
    """State file of a run, named after parameters, inputs and the project's code, so that no run resumes another."""
    return STATE_ROOT / stage / fingerprint(*parts, files=inputs) / "state.safetensors"


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Epoch rows as CSV; an epoch without evaluation leaves its cells empty."""
    import pandas as pd

    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).round(6).to_csv(path, index=False)
