"""How bars look: as many columns as the terminal has room for. The one module that knows rich."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from yolov6core.base.progress import Bar

NARROW, WIDE = 60, 110
"""Columns of a terminal: fewer have room for share and time only; from the second number on all losses are shown."""


class _Console(Console):
    """One that leaves the cursor visible."""

    def show_cursor(self, show: bool = True) -> bool:
        return False


class Drawing:
    """Bars at the end of a terminal. Colours are rich's, which obeys NO_COLOR; COLUMNS overrides the width."""

    def __init__(self, stream: TextIO) -> None:
        self._console = _Console(file=stream, force_terminal=True)
        # No thread draws, the work itself does: loader processes must not be forked while another thread has a lock.
        self._live = Live(
            Text(),
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=True,
        )
        self._live.start()

    def draw(self, bars: Iterable[Bar]) -> None:
        """Draw bars in the place of those before."""
        self._live.update(_table(bars, self._console.width), refresh=True)

    def write_line(self, text: str) -> None:
        """Write a line above the bars, unbroken, whatever the width."""
        self._console.print(Text(text), soft_wrap=True)

    def erase(self) -> None:
        """End, and leave the terminal without bars."""
        self._live.stop()

    def give_up(self) -> None:
        """End where the terminal does not take any more; sys.stderr is what it was."""
        with contextlib.suppress(OSError, ValueError):
            self._live.stop()


def _table(bars: Iterable[Bar], width: int) -> Table:
    table = Table.grid(padding=(0, 1))
    for bar in bars:
        counts = str(bar.done) if bar.total is None else f"{bar.done}/{bar.total}"
        if width < NARROW:
            share = counts if not bar.total else f"{100 * min(bar.done / bar.total, 1):.0f}%"
            cells = [Text(bar.title, style="bold"), Text(share), _left(bar)]
        else:
            drawn = ProgressBar(total=bar.total, completed=bar.done, width=20 if width >= WIDE else 10)
            words = _rate(bar), _figures(bar.figures, all_of_them=width >= WIDE)
            told = Text("  ".join(filter(None, (f"{counts} {bar.unit}", *words))))
            cells = [Text(bar.title, style="bold"), drawn, _left(bar), told]
        table.add_row(*cells)
    for column in table.columns:
        column.no_wrap, column.overflow = True, "crop"
    return table


def _rate(bar: Bar) -> str:
    rate = bar.rate() if bar.unit == "images" else None
    return "" if rate is None else f"{rate:.3g} images/s" if rate < 1000 else f"{rate:.0f} images/s"


def _figures(figures: Mapping[str, float], *, all_of_them: bool) -> str:
    shown = figures if all_of_them or "total" not in figures else {"total": figures["total"]}
    return "  ".join(f"{name} {value:.4g}" for name, value in shown.items())


def _left(bar: Bar) -> Text:
    """The time that is left, also in all where more of the kind follows."""
    left = bar.left()
    if left is None:
        return Text("-:--:--", style="cyan")
    here, in_all = map(_clock, left)
    return Text(f"{here} left" if here == in_all else f"{here} left, {in_all} in all", style="cyan")


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
