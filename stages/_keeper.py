"""What keeps a training through kills, Ctrl-C and full disks: its state on disk, and who may write it."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolov6core.errors import UserError, Interrupted, logger

if TYPE_CHECKING:
    from stages._fit import Fit
    from yolov6core.training.distributed import Ranks
    from yolov6core.training.loop import Course, Learner

SAVE_SECONDS = 300.0
"""Longest time of training that a kill or a power loss can cost; an epoch's end is always saved."""


class CtrlC:
    """Inside `with`, the first Ctrl-C (or SIGTERM) only sets `asked`; the second one stops at once."""

    def __init__(self) -> None:
        self.asked = False
        self._process = os.getpid()

    def __enter__(self) -> CtrlC:
        self._before = {}
        if threading.current_thread() is threading.main_thread():  # others cannot receive signals
            self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, *_: Any) -> None:
        if os.getpid() != self._process:  # a loader process, which the terminal tells as well: it ends with this one
            return
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        logger.info("stopping after this step; once more stops at once")


@dataclass
class Keeper:
    """Saves a run at every epoch's end, every few minutes, and when it is asked to stop."""

    state: Path
    learner: Learner
    ctrl_c: CtrlC
    epoch: int = 0
    """The epoch that runs."""
    run: Fit = field(init=False)
    _saved: float = field(init=False)

    def restore(self, run: Fit, epochs: int) -> Course:
        """Fill run and learner from the saved state, if there is one; returns the course of the epoch to continue."""
        from yolov6core.training.loop import Course
        from yolov6core.training.resume import load_state

        self.run = run
        self._saved = time.monotonic()
        if not self.state.is_file():
            return Course()
        try:
            best_state, progress = load_state(self.state, self.learner)
        except ValueError as error:
            raise UserError(str(error)) from None
        for name, value in progress["run"].items():
            setattr(run, name, value)
        run.best_state = best_state
        self.epoch, course = progress["epoch"], Course(**progress["course"])
        logger.info(
            "continuing after epoch %d of %d%s from %s",
            self.epoch,
            epochs,
            f" and {course.batches} batches" if course.batches else "",
            self.state,
        )
        return course

    def after_step(self, course: Course) -> None:
        """Save if it is time to; stop if that was asked for, in any of the processes."""
        stop = self._stop_asked()
        if stop or time.monotonic() - self._saved > SAVE_SECONDS:
            self._save(self.epoch, course)
        if stop:
            self._stop(f"stopped in epoch {self.epoch + 1} after {course.batches} batches")

    def after_epoch(self) -> Course:
        """Save, stop if that was asked for, and give the next epoch's course."""
        from yolov6core.training.loop import Course

        self._save(self.epoch + 1, Course())
        if self._stop_asked():
            self._stop(f"stopped after epoch {self.epoch + 1}")
        return Course()

    def _stop_asked(self) -> bool:
        from yolov6core.training.distributed import stop_asked

        return self.learner.ranks.any(self.ctrl_c.asked or stop_asked())

    def _stop(self, where: str) -> None:
        from yolov6core.training.distributed import stop_asked

        ranks = self.learner.ranks
        ranks.any(True)  # torchrun ends all processes as soon as one has ended: wait until the state is written
        message = f"{where}; {_continue()}" if ranks.main else ""
        raise Interrupted(message, exit_code=0 if stop_asked() else 130)

    def _save(self, epoch: int, course: Course) -> None:
        from yolov6core.training.resume import save_state

        if not self.learner.ranks.main:
            return
        kept = {item.name: getattr(self.run, item.name) for item in fields(self.run) if item.name != "best_state"}
        progress = {"epoch": epoch, "course": asdict(course), "run": kept}
        try:
            save_state(self.state, self.learner, extra=self.run.best_state, progress=progress)
        except OSError as error:
            left = "the last good one is kept" if self.state.is_file() else "there is none yet"
            raise UserError(
                f"the state of the training could not be written to {self.state} ({error}); {left}. "
                f"Make room; {_continue()}"
            ) from None
        self._saved = time.monotonic()


def _continue() -> str:
    """How to go on, as a sentence with the command that was given."""
    if "DVC_STAGE" in os.environ:
        command = f"dvc repro {os.environ['DVC_STAGE'].rpartition(':')[2]}"
    else:
        command = shlex.join(["python", "-m", "stages", *sys.argv[1:]])
    return f"'{command}' continues from there"


@contextlib.contextmanager
def exclusive(folder: Path, ranks: Ranks) -> Iterator[None]:
    """Hold a folder for this process alone; UserError while another does. A killed process holds nothing."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    if not ranks.main:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a+", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            raise UserError(
                f"process {handle.read().strip()} is already at this training ({folder}); wait for it or end it"
            ) from None
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield


@contextlib.contextmanager
def explained(state: Path, rank: int) -> Iterator[None]:
    """Turn a loss that is not finite into a UserError, and keep its batch beside the state to look at."""
    import numpy as np

    from yolov6core.training.loop import NonFiniteLossError

    try:
        yield
    except NonFiniteLossError as error:
        path = state.with_name(f"not_finite_{rank}.npz")
        path.parent.mkdir(parents=True, exist_ok=True)
        images, targets = error.batch
        np.savez(path, images=images.cpu().numpy(), targets=targets.cpu().numpy())
        raise UserError(f"{error}. The batch is in {path}: images uint8 [B, 3, H, W], targets [M, 6]") from None
