"""Work that ends with the process that started it."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

WATCH_SECONDS = 0.5
GRACE_SECONDS = 60.0
"""Time that the work has to save its state."""


def end_with_starter(levels: int = 2) -> None:
    """Stop this process, as by Ctrl-C, soon after one of its ancestors has died; kill it if it does not stop.

    A thread looks at the ancestors. `PR_SET_PDEATHSIG` would see the parent only, which may be a shell that lives on.

    Args:
        levels: ancestors to look at: 1 for the parent, 2 for the one that started it, too.
    """
    line = ancestors(levels)
    threading.Thread(target=_watch, args=(line,), daemon=True, name="watch of the starter").start()


def ancestors(levels: int) -> list[int]:
    """Numbers of this process, its parent, and so on; shorter where the system does not tell (not Linux)."""
    line = [os.getpid(), os.getppid()]
    while len(line) <= levels and line[-1] > 1 and (above := parent_of(line[-1])) is not None:
        line.append(above)
    return line


def parent_of(process: int) -> int | None:
    """Number of a process's parent, from /proc; None if there is no such process or no /proc."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return int(text.rpartition(")")[2].split()[1])  # the name before it may hold spaces


def _watch(line: list[int]) -> None:
    while os.getppid() == line[1] and all(
        parent_of(child) == parent for child, parent in zip(line[1:], line[2:], strict=False)
    ):
        time.sleep(WATCH_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)
