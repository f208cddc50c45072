"""How far long work is: whoever works tells it, and whoever has a terminal shows it.

The library names its work with `working` or `tracked`, as it names events with `logger`. Nothing is shown unless the
caller gives a `Progress` that draws, by `shown_by`; only work of the thread that calls it is affected.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TypeVar

Item = TypeVar("Item")


class Progress:
    """Follows bars. This one shows nothing."""

    shown = False
    """Whether somebody sees the bars; work that lasts minutes logs a line now and then otherwise."""

    def started(self, bar: Bar) -> None:
        """Work begins, perhaps inside that of another bar."""

    def moved(self, bar: Bar) -> None:
        """More is done. Called for every step, so it has to be cheap."""

    def ended(self, bar: Bar) -> None:
        """The work has ended, in whatever way."""


@dataclass(eq=False)
class Bar:
    """One piece of work.

    Attributes:
        unit: of the counts, in the plural.
        total: units to be done; None: unknown.
        done: units done so far; at first those of an interrupted run that is continued.
        later: units of like work that follows, such as further epochs, for the time that is left in all.
        figures: to be shown beside it, such as losses.
    """

    title: str
    progress: Progress
    unit: str = "images"
    total: int | None = None
    done: int = 0
    later: int = 0
    figures: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._before, self._start = self.done, time.monotonic()

    def add(self, count: int = 1) -> None:
        """Count more as done."""
        self.reach(self.done + count)

    def reach(self, done: int, figures: Mapping[str, float] | None = None) -> None:
        """Set how much is done, and perhaps the figures."""
        self.done = done
        if figures is not None:
            self.figures = figures
        self.progress.moved(self)

    def rate(self) -> float | None:
        """Units a second in this run; None as long as nothing is done."""
        seconds, count = time.monotonic() - self._start, self.done - self._before
        return count / seconds if count > 0 and seconds > 0 else None

    def left(self) -> tuple[float, float] | None:
        """Seconds to the end of this work, and of what follows as well; None: unknown."""
        rate = self.rate()
        if rate is None or self.total is None:
            return None
        here = max(self.total - self.done, 0)
        return here / rate, (here + self.later) / rate


_SHOWN_BY: ContextVar[Progress] = ContextVar("progress")
_SILENT = Progress()


@contextlib.contextmanager
def shown_by(progress: Progress) -> Iterator[None]:
    """Let `progress` follow the bars of what is done inside `with`."""
    token = _SHOWN_BY.set(progress)
    try:
        yield
    finally:
        _SHOWN_BY.reset(token)


@contextlib.contextmanager
def working(
    title: str, *, total: int | None = None, unit: str = "images", done: int = 0, later: int = 0
) -> Iterator[Bar]:
    """A bar for the work inside `with`. Args: see `Bar`."""
    progress = _SHOWN_BY.get(_SILENT)
    bar = Bar(title, progress, unit, total, done, later)
    progress.started(bar)
    try:
        yield bar
    finally:
        progress.ended(bar)


def tracked(
    items: Iterable[Item],
    title: str,
    *,
    total: int | None = None,
    unit: str = "images",
    count: Callable[[Item], int] = lambda item: 1,
) -> Iterator[Item]:
    """The items; each counts as done when the next one is asked for.

    Args:
        total: None: the number of items, if they have a length.
        count: units of an item.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    with working(title, total=total, unit=unit) as bar:
        for item in items:
            yield item
            bar.add(count(item))
