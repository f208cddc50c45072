"""A training run that can be interrupted: epochs, evaluation, best weights, state on disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from stages._params import Bounds
from stages._report import logger

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

    best_map: float = -1.0
    best_epoch: int = 0
    best_state: dict[str, Tensor] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)


def fit(
    learner: Learner,
    *,
    recipe: LoopParams,
    batches: Callable[[int], Iterable],
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
        batches: epoch -> its batches, the same on every call.
        compute_losses: (batch, epoch) -> named unweighted terms.
        weights: factor of every term.
        evaluate: averaged model -> `map50_95` and `map50` on the select split.
        state: where an interrupted run continues from.
        freeze_norm_epochs: last epochs in which batch norm uses its stored statistics. In small batches an image with
            extreme activations normalises itself; in use it does not, and the weights should have seen that.
    """
    from yolov6core.training.loop import train_one_epoch
    from yolov6core.training.resume import load_state, save_state

    run, first = Fit(), 0
    if state.is_file():
        run.best_state, progress = load_state(state, learner)
        run.best_map, run.best_epoch, run.rows = progress["best_map"], progress["best_epoch"], progress["rows"]
        first = progress["next_epoch"]
        logger.info("continuing after epoch %d of %d from %s", first, recipe.epochs, state)
    for epoch in range(first, recipe.epochs):
        started = time.perf_counter()
        losses = train_one_epoch(
            learner,
            batches(epoch),
            lambda batch, epoch=epoch: compute_losses(batch, epoch),
            weights,
            freeze_norm=epoch >= recipe.epochs - freeze_norm_epochs,
        )
        row = {"epoch": epoch + 1, "lr": learner.schedule.lr(learner.step - 1), **losses}
        if (epoch + 1) % recipe.eval_every == 0 or epoch + 1 == recipe.epochs:
            row |= _keep_best(run, evaluate, learner.ema.model, epoch + 1)
        run.rows.append(row)
        _log_epoch(row, recipe.epochs, time.perf_counter() - started)
        progress = {"next_epoch": epoch + 1, **{k: v for k, v in vars(run).items() if k != "best_state"}}
        save_state(state, learner, extra=run.best_state, progress=progress)
    return run


def _keep_best(
    run: Fit, evaluate: Callable[[nn.Module], Mapping[str, float]], model: nn.Module, epoch: int
) -> dict[str, float]:
    scores = evaluate(model)
    if scores["map50_95"] > run.best_map:
        run.best_map, run.best_epoch = scores["map50_95"], epoch
        run.best_state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    return {"map50_95": scores["map50_95"], "map50": scores["map50"]}


def _log_epoch(row: Mapping[str, float], epochs: int, seconds: float) -> None:
    shown = "  ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "epoch")
    logger.info("epoch %d/%d  %s  (%.1f s)", row["epoch"], epochs, shown, seconds)


def finish(state: Path) -> None:
    """Drop the state of a run that has ended and whose outputs are written."""
    state.unlink(missing_ok=True)


def state_path(stage: str, *parts: Any, inputs: tuple[Path, ...] = ()) -> Path:
    """State file of a run, named after parameters, inputs and the project's code, so that no run resumes another."""
    import yolov6core
    from yolov6core.training.resume import fingerprint

    packages = (Path(__file__).parent, Path(yolov6core.__file__).parent)
    sources = sorted(path for package in packages for path in package.rglob("*.py"))
    return STATE_ROOT / stage / fingerprint(*parts, files=(*sources, *inputs)) / "state.safetensors"


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Epoch rows as CSV; an epoch without evaluation leaves its cells empty."""
    import pandas as pd

    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).round(6).to_csv(path, index=False)
