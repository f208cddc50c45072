"""Exclusive locks between processes. A killed process holds nothing."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from yolov6core.base.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

PAUSE_SECONDS = 0.2


@contextlib.contextmanager
def held_alone(path: Path, *, doing: str, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold the lock file `path` for this process alone.

    Args:
        doing: what holders do, for the message, such as "this training (.ckpt/train)".
        wait_seconds: time to wait for another holder: it may be about to end.

    Raises:
        UserError: another process holds it for longer.
    """
    if fcntl is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8") as handle:
        deadline = time.monotonic() + wait_seconds
        while not _taken(handle.fileno()):
            if time.monotonic() >= deadline:
                handle.seek(0)
                holder = handle.read().strip() or "unknown"
                raise UserError(f"process {holder} is already at {doing}; wait for it or end it")
            time.sleep(PAUSE_SECONDS)
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield


def _taken(descriptor: int) -> bool:
    assert fcntl is not None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
