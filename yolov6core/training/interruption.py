"""What carries a training through kills, Ctrl-C and full disks: its state on disk, and who may write it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from yolov6core.base.errors import Interrupted, UserError, logger
from yolov6core.base.locks import held_alone
from yolov6core.training.distributed import ProcessGroup, stop_asked
from yolov6core.training.loop import EpochProgress, NonFiniteLossError
from yolov6core.training.resume import load_state, save_state
from yolov6core.training.run import TrainingRun
from yolov6core.training.train_state import TrainState

SAVE_SECONDS = 300.0
"""Longest time of training that a kill or a power loss can cost; the end of an epoch is always saved."""


@dataclass(frozen=True)
class ResumePoint:
    """Where an interrupted run continues from, and where its curves go on.

    Attributes:
        path: file of the state; its folder belongs to this run alone.
        how: how the user continues, a sentence without a full stop.
        curves: folder of TensorBoard's files, for this run alone; None: no curves.
    """

    path: Path
    how: str = "the same command continues from there"
    curves: Path | None = None


class StopRequest:
    """Inside `with`, the first Ctrl-C (or SIGTERM) only sets `asked`; the second one stops at once."""

    def __init__(self) -> None:
        self.asked = False
        self._process = os.getpid()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # others cannot receive signals
            self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a loader process, which the terminal signals as well: it ends with this one
            return
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        logger.info("stopping after this step; once more stops at once")


@dataclass
class CheckpointManager:
    """Saves a run at the end of every epoch, every few minutes, and when it is asked to stop."""

    resume: ResumePoint
    state: TrainState
    run: TrainingRun
    request: StopRequest
    epoch: int = 0
    """The epoch that runs."""
    _saved: float = field(default_factory=time.monotonic)

    def restore(self, epochs: int) -> EpochProgress:
        """Fill run and state from the saved file, if there is one; returns the progress of the epoch to continue.

        Raises:
            UserError: the file is damaged.
        """
        path = self.resume.path
        if not path.is_file():
            return EpochProgress()
        try:
            best_state, saved = load_state(path, self.state)
        except ValueError as error:
            raise UserError(str(error)) from None
        self.run.restore(saved["run"], best_state)
        self.epoch, progress = saved["epoch"], EpochProgress(**saved["progress"])
        batches = f" and {progress.batches} batches" if progress.batches else ""
        logger.info("continuing after epoch %d of %d%s from %s", self.epoch, epochs, batches, path)
        return progress

    def after_step(self, progress: EpochProgress) -> None:
        """Save if it is time to; stop if any of the processes was asked to.

        Raises:
            Interrupted: it was asked to stop, and the state is saved.
            UserError: the state cannot be written.
        """
        stop = self._stop_asked()
        if stop or time.monotonic() - self._saved > SAVE_SECONDS:
            self._save(self.epoch, progress)
        if stop:
            self._stop(f"stopped in epoch {self.epoch + 1} after {progress.batches} batches")

    def after_epoch(self) -> EpochProgress:
        """Save, stop if it was asked to, and give the progress of the next epoch. Raises: as `after_step`."""
        self._save(self.epoch + 1, EpochProgress())
        if self._stop_asked():
            self._stop(f"stopped after epoch {self.epoch + 1}")
        return EpochProgress()

    def _stop_asked(self) -> bool:
        return self.state.processes.any(self.request.asked or stop_asked())

    def _stop(self, where: str) -> None:
        processes = self.state.processes
        processes.any(True)  # torchrun ends all processes as soon as one has ended: wait until the state is written
        message = f"{where}; {self.resume.how}" if processes.main else ""
        raise Interrupted(message, exit_code=0 if stop_asked() else 130)

    def _save(self, epoch: int, progress: EpochProgress) -> None:
        if not self.state.processes.main:
            return
        kept = {"epoch": epoch, "progress": asdict(progress), "run": self.run.figures()}
        try:
            save_state(self.resume.path, self.state, extra=self.run.best_state, progress=kept)
        except OSError as error:
            left = "the last good one is kept" if self.resume.path.is_file() else "there is none yet"
            raise UserError(
                f"the state of the training could not be written to {self.resume.path} ({error}); {left}. "
                f"Make room; {self.resume.how}"
            ) from None
        self._saved = time.monotonic()


@contextlib.contextmanager
def training_held(folder: Path, processes: ProcessGroup) -> Iterator[None]:
    """Hold the folder of a training's state for this training alone. Raises UserError if another process holds it."""
    if not processes.main:
        yield
        return
    with held_alone(folder / "lock", doing=f"this training ({folder})"):
        yield


@contextlib.contextmanager
def bad_batch_kept(folder: Path, rank: int) -> Iterator[None]:
    """Turn a loss that is not finite into a UserError, and keep its batch in `folder` to look at."""
    try:
        yield
    except NonFiniteLossError as error:
        path = folder / f"not_finite_{rank}.npz"
        folder.mkdir(parents=True, exist_ok=True)
        images, targets = error.batch
        np.savez(path, images=images.cpu().numpy(), targets=targets.cpu().numpy())
        raise UserError(f"{error}. The batch is in {path}: images uint8 [B, 3, H, W], targets [M, 6]") from None
