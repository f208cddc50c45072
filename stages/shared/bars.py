"""Bars of running work on a terminal, drawn by rich, which is loaded when the first one is drawn."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

from yolov6core.base.progress import Bar, Progress, shown_by

if TYPE_CHECKING:
    from stages.shared.drawing import Drawing

REFRESH_SECONDS = 0.125
"""A drawing of two bars takes 0.8 ms on an Intel Xeon, so bars cost less than one percent of a core."""
PATIENCE_SECONDS = 0.3
"""Work that ends sooner is not drawn: it would flicker."""


class TerminalProgress(Progress):
    """Bars below each other at the end of a terminal, the outermost first. Lines are written above them.

    Loading rich and drawing wait until work lasts. `close` leaves the terminal as it was; the cursor is never hidden,
    so that not even `kill -9` leaves it so.
    """

    shown = True

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._process = stream, os.getpid()
        self._bars: list[Bar] = []
        self._drawing: Drawing | None = None
        self._due, self._lost = 0.0, False

    def started(self, bar: Bar) -> None:
        if not self._bars:
            self._due = time.monotonic() + PATIENCE_SECONDS
        self._bars.append(bar)

    def moved(self, bar: Bar) -> None:
        now = time.monotonic()
        if now < self._due or self._lost or not self._bars or not self._here():
            return
        self._due = now + REFRESH_SECONDS
        with self._work_goes_on():
            if self._drawing is None:
                from stages.shared.drawing import Drawing

                self._drawing = Drawing(self._stream)
            self._drawing.draw(self._bars)

    def ended(self, bar: Bar) -> None:
        # With its inner ones: the generator of one that an error has left is closed later than the outer bar.
        if bar in self._bars:
            del self._bars[self._bars.index(bar) :]
        if not self._bars:
            self.close()

    def write_line(self, text: str) -> None:
        """Write a line, above the bars where there are any."""
        if self._drawing is not None and self._here():
            self._drawing.write_line(text)
        else:
            self._stream.write(text + "\n")
            self._stream.flush()

    def close(self) -> None:
        """Take all bars off the terminal."""
        self._bars.clear()
        drawing, self._drawing = self._drawing, None
        if drawing is not None and self._here():
            with self._work_goes_on():
                drawing.erase()

    @contextlib.contextmanager
    def _work_goes_on(self) -> Iterator[None]:
        """Stop drawing for good where the terminal does not take it, such as after its window was closed."""
        try:
            yield
        except (OSError, ValueError):  # ValueError: a closed file, or letters that its encoding lacks
            drawing, self._drawing, self._lost = self._drawing, None, True
            if drawing is not None:
                drawing.give_up()

    def _here(self) -> bool:
        """Whether this is the process that began, no loader process that has inherited the object."""
        return os.getpid() == self._process


def can_be_drawn_on(stream: TextIO) -> bool:
    """Whether a stream is a terminal that can move its cursor, and this process the first one of a training."""
    return stream.isatty() and os.environ.get("TERM") != "dumb" and os.environ.get("RANK", "0") == "0"


class _LinesAbove(logging.Handler):
    """Log records as lines above the bars."""

    def __init__(self, progress: TerminalProgress) -> None:
        super().__init__()
        self._progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._progress.write_line(self.format(record))
        except Exception:
            self.handleError(record)


@contextlib.contextmanager
def bars_on(stream: TextIO) -> Iterator[logging.Handler]:
    """Draw the bars of what is done inside `with`, if the stream is a terminal; gives the handler of log records."""
    if not can_be_drawn_on(stream):
        yield logging.StreamHandler(stream)
        return
    progress = TerminalProgress(stream)
    try:
        with shown_by(progress):
            yield _LinesAbove(progress)
    finally:
        progress.close()
