"""A whole training: epochs, evaluation, the best weights, and resumption."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from torch import Tensor, nn

from yolov6core.base.errors import logger
from yolov6core.base.progress import working
from yolov6core.training.curves import drawn_curves
from yolov6core.training.interruption import CheckpointManager, ResumePoint, StopRequest, bad_batch_kept, training_held
from yolov6core.training.loop import Batch, EpochProgress, train_one_epoch
from yolov6core.training.recipe import Recipe
from yolov6core.training.run import ON_SELECT, TrainingRun
from yolov6core.training.train_state import TrainState

Losses = Callable[[Batch, int], Mapping[str, Tensor]]
"""(batch, epoch) -> named unweighted scalar terms."""


def fit(
    state: TrainState,
    recipe: Recipe,
    *,
    batches: Callable[[int, int], Iterable[Batch]],
    losses: Losses,
    weights: Mapping[str, float],
    evaluate: Callable[[nn.Module], Mapping[str, float]],
    resume: ResumePoint,
) -> TrainingRun:
    """Train for `recipe.epochs` epochs and keep the averaged weights that score best on the select split.

    Args:
        state: model, optimiser, schedule and average; it ends at the last step.
        recipe: the last epoch is evaluated, too.
        batches: (epoch, first) -> its batches from number `first` on, the same on every call.
        weights: factor of every term.
        evaluate: averaged model -> `map50_95` and `map50` on the select split. The best is chosen by `selection_score`
            where it gives that, else by `map50_95`.
        resume: where an interrupted run continues from.

    Raises:
        Interrupted: Ctrl-C; the step is finished and saved.
        UserError: a loss is not finite, the disk is full, or the same training is running already.
    """
    folder, run, main = resume.path.parent, TrainingRun(), state.processes.main
    with training_held(folder, state.processes), StopRequest() as request, contextlib.ExitStack() as opened:
        manager = CheckpointManager(resume, state, run, request)
        progress = manager.restore(recipe.epochs)
        curves = opened.enter_context(drawn_curves(resume.curves if main else None, state.step, progress))

        def after_step(progress: EpochProgress) -> None:
            curves.after_step(state.step, progress)
            manager.after_step(progress)

        for epoch in range(manager.epoch, recipe.epochs):
            started = time.perf_counter()
            manager.epoch = epoch
            with bad_batch_kept(folder, state.processes.rank), _bar(state, recipe, epoch, progress) as show:
                means = train_one_epoch(
                    state,
                    batches(epoch, progress.batches),
                    lambda batch, epoch=epoch: losses(batch, epoch),
                    weights,
                    freeze_norm=epoch >= recipe.epochs - recipe.freeze_norm_epochs,
                    progress=progress,
                    after_step=lambda progress, show=show: after_step(show(progress)),
                )
            row = {"epoch": epoch + 1, "lr": state.schedule.lr(state.step - 1), **means}
            if (epoch + 1) % recipe.eval_every == 0 or epoch + 1 == recipe.epochs:
                state.processes.follow_main_(state.ema.model)
                row |= _evaluated(run, evaluate, state.ema.model, epoch + 1)
            run.rows.append(row)
            _log_epoch(row, recipe.epochs, time.perf_counter() - started)
            curves.after_epoch(state.step, row)  # before the state is saved: a kill between the two loses no point
            progress = manager.after_epoch()
    return run


@contextlib.contextmanager
def _bar(
    state: TrainState, recipe: Recipe, epoch: int, progress: EpochProgress
) -> Iterator[Callable[[EpochProgress], EpochProgress]]:
    """A bar of the epoch's images, of all devices together; gives what moves it and hands its argument on."""
    size, images = recipe.batch_size, state.batches_per_epoch * recipe.batch_size
    with working(
        f"epoch {epoch + 1}/{recipe.epochs}",
        total=images or None,
        done=progress.batches * size,
        later=images * (recipe.epochs - epoch - 1),
    ) as bar:

        def show(progress: EpochProgress) -> EpochProgress:
            bar.reach(progress.batches * size, progress.means())
            return progress

        yield show


def _evaluated(
    run: TrainingRun, evaluate: Callable[[nn.Module], Mapping[str, float]], model: nn.Module, epoch: int
) -> dict[str, float]:
    scores = evaluate(model)
    run.offer(model, scores.get("selection_score", scores["map50_95"]), epoch)
    return {name: scores[name] for name in ON_SELECT if name in scores}


def _log_epoch(row: Mapping[str, float], epochs: int, seconds: float) -> None:
    shown = "  ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "epoch")
    logger.info("epoch %d/%d  %s  (%.1f s)", row["epoch"], epochs, shown, seconds)
