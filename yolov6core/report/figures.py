"""Charts as SVG inside a page: they take the page's colours and font, light or dark, and equal charts give equal text.

matplotlib writes fixed colours. Charts are drawn in colours that stand for names of the page's style sheet, and the
names are put in their place.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from itertools import count
from typing import Any

from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.figure import Figure

INK, SOFT, GRID, PAPER = "#010101", "#010102", "#010103", "#010104"
SERIES = ("#010201", "#010202", "#010203", "#010204", "#010205", "#010206", "#010207")
"""Colours of series, in order; the style sheet has one for each, apart in lightness, too."""
WARM = "#010301"
"""Of what stands out."""
NAMES = {INK: "ink", SOFT: "soft", GRID: "grid", PAPER: "paper", WARM: "warm"} | {
    colour: f"series-{number}" for number, colour in enumerate(SERIES, start=1)
}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "font.size": 11,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": f"cycler('color', {list(SERIES)})",
    "figure.facecolor": "none",
    "grid.color": GRID,
    "hatch.color": PAPER,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "path.simplify": True,
}
_TAGS, _NUMBERS = re.compile(r"<[^>]*>"), re.compile(r"\d+\.\d{3,}")


class Charts:
    """Makes the charts of one page; each has ids of its own."""

    def __init__(self) -> None:
        self._number = count(1)

    def chart(
        self,
        draw: Callable[..., None],
        *data: Any,
        alt: str,
        size: tuple[float, float] = (5.0, 3.2),
        margins: tuple[float, float, float, float] | None = None,
    ) -> Markup:
        """A chart as an `<svg>` element.

        Args:
            draw: called with a pair of axes and the data.
            alt: what the chart shows, in words.
            size: width and height in inches of 72 units.
            margins: edges left, bottom, right and top of the axes, as fractions; None: what the text needs, which takes
                most of the time of a chart.
        """
        style: dict[Any, Any] = {**STYLE, "figure.constrained_layout.use": margins is None}
        with rc_context(style):
            figure = Figure(figsize=size)
            if margins is not None:
                figure.subplots_adjust(*margins)
            draw(figure.subplots(), *data)
            file = io.StringIO()
            figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
        return Markup(self._for_page(file.getvalue(), alt))

    def _for_page(self, text: str, alt: str) -> str:
        prefix = f"chart-{next(self._number)}-"
        text = text[text.index("<svg") :]
        text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
        text = re.sub(r'<style type="text/css">.*?</style>', "", text, flags=re.DOTALL)
        text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}", text)
        text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
        for colour, name in NAMES.items():
            text = text.replace(colour, f"var(--{name})")
        text = _TAGS.sub(lambda tag: _NUMBERS.sub(lambda found: f"{float(found[0]):.2f}", tag[0]), text)
        head = re.search(r'viewBox="[^"]*"', text)
        box = head[0] if head else ""
        body = text[text.index(">") + 1 :]
        return f'<svg class="chart" role="img" aria-label="{escape(alt)}" {box}>{body}'


def mathless(text: str) -> str:
    """Text that matplotlib writes as it is: a dollar sign would begin a formula."""
    return text.replace("$", r"\$")
