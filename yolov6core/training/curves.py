"""Curves of a training for TensorBoard: loss terms every few steps, means and mAP of every epoch, over the steps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from yolov6core.base.errors import UserError, logger
from yolov6core.base.own_files import output_folder
from yolov6core.training.loop import EpochProgress
from yolov6core.training.run import ON_SELECT

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

OPTION = "runtime.tensorboard"
EVERY = 10
"""Steps from one point of `step/...` to the next: 300 epochs of COCO are then some 60 MB."""


def writer_class() -> type[SummaryWriter]:
    """What writes TensorBoard's event files.

    Raises:
        UserError: its package is not there, or does not load.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError(
            f"{OPTION} is set, but TensorBoard does not load ({error}); install it: pip install -e '.[tensorboard]', "
            f"or set {OPTION} to null"
        ) from None
    return SummaryWriter


class Curves:
    """Writes the scalars of one training. Without a writer it does nothing."""

    def __init__(self, writer: SummaryWriter | None, progress: EpochProgress) -> None:
        """`progress`: of the epoch that is continued; what it has seen is not drawn again."""
        self._writer = writer
        self._before = progress.copy()

    def after_step(self, step: int, progress: EpochProgress) -> None:
        """Draw the loss terms of one step in `EVERY`, means over its batches.

        Args:
            step: number of the step from 1.
            progress: of the epoch up to and with this step.
        """
        if self._writer is None:
            return
        before = self._before if self._before.batches < progress.batches else EpochProgress()
        if step % EVERY == 0:
            count = progress.batches - before.batches
            means = {name: (value - before.sums.get(name, 0.0)) / count for name, value in progress.sums.items()}
            self._draw({f"step/{name}": value for name, value in means.items()}, step)
        self._before = progress.copy()

    def after_epoch(self, step: int, row: Mapping[str, float]) -> None:
        """Draw the figures of an epoch at its last step, and see to it that all curves are on the disk.

        Args:
            row: figures as of `TrainingRun.rows`.
        """
        if self._writer is None:
            return
        self._draw({f"{'select' if name in ON_SELECT else 'epoch'}/{name}": row[name] for name in row}, step)
        self._writer.flush()

    def _draw(self, values: Mapping[str, float], step: int) -> None:
        assert self._writer is not None
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)


@contextlib.contextmanager
def drawn_curves(folder: Path | None, step: int, progress: EpochProgress) -> Iterator[Curves]:
    """The curves of a training that begins, or continues, after `step` steps.

    What an interrupted run wrote beyond the step that it is continued from counts no longer: TensorBoard and its
    readers pass over it, so that no step is there twice.

    Args:
        folder: for the event files of this training alone; None: no curves.

    Raises:
        UserError: TensorBoard does not load, or the folder cannot be made.
    """
    if folder is None:
        yield Curves(None, progress)
        return
    make = writer_class()
    logger.info("curves: tensorboard --logdir %s", output_folder(folder, option=OPTION))
    with contextlib.closing(make(str(folder), purge_step=step + 1)) as writer:
        yield Curves(writer, progress)
