"""The charts of the report: what each draws on its axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from yolov6core.evaluation.tradeoff import MARKERS, draw_tradeoff
from yolov6core.report.figures import INK, SERIES, SOFT, WARM, mathless

Rows = Sequence[Mapping[str, Any]]
MOST_BARS = 24
SHOWN_BINS = 128
"""Of a histogram: neighbours are summed up to so many."""
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def tradeoff(axes: Axes, rows: Rows) -> None:
    """mAP50:95 against latency, one point a kind."""
    points = {row["kind"]: (row["latency_ms"], row["map50_95"], row.get("map_error") or 0.0) for row in rows}
    draw_tradeoff(axes, points, SERIES)


def lines(axes: Axes, series: Mapping[str, tuple[Sequence[float], Sequence[float]]], labels: tuple[str, str]) -> None:
    """One line for each name -> (x, y); short ones have markers."""
    for number, (name, (x, y)) in enumerate(series.items()):
        marker = MARKERS[number % len(MARKERS)] if len(x) <= 12 else ""
        colour, style = SERIES[number % len(SERIES)], ("-", "--", "-.", ":")[number % 4]
        axes.plot(x, y, marker=marker, markersize=5, color=colour, linestyle=style, label=mathless(name))
    axes.set(xlabel=labels[0], ylabel=labels[1])
    if labels[0] in ("epoch", "round"):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(series) > 1:
        columns = 4 if max(map(len, series)) <= 8 else 3
        axes.figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=columns)


def scales(axes: Axes, rows: Rows) -> None:
    """Means of the scales of every block, one series a branch, with their smallest and largest value."""
    blocks = list(dict.fromkeys(row["block"] for row in rows))
    branches = list(dict.fromkeys(row["branch"] for row in rows))
    for number, branch in enumerate(branches):
        own = [row for row in rows if row["branch"] == branch]
        x = np.array([blocks.index(row["block"]) for row in own]) + (number - (len(branches) - 1) / 2) * 0.25
        mean = np.array([row["mean"] for row in own])
        span = np.abs(np.array([[row["min"] for row in own], [row["max"] for row in own]]) - mean)
        axes.errorbar(x, mean, yerr=span, fmt=MARKERS[number], markersize=4, elinewidth=1, label=mathless(branch))
    axes.axhline(1, color=INK, linewidth=1, linestyle="--")
    axes.set(xlabel="block, from the input on", ylabel="scale (1: as it began)")
    axes.figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=3)


def ranking(axes: Axes, rows: Rows) -> None:
    """Bars of the most sensitive layers; those that stay float stand out."""
    shown = [row for place, row in enumerate(rows) if place < MOST_BARS or row["float"]]
    values = [100 * row["sensitivity"] for row in shown]
    names = [mathless(row["layer"]) for row in shown]
    bars = axes.barh(range(len(shown)), values, color=[WARM if row["float"] else SERIES[0] for row in shown])
    for bar, row in zip(bars, shown, strict=True):
        bar.set_hatch("//" if row["float"] else None)
    axes.set_yticks(range(len(shown)), names, fontsize=8)
    axes.set(xlabel="share of the quantization error, %")
    axes.invert_yaxis()
    axes.margins(y=0.01)


def class_bars(axes: Axes, counts: Mapping[str, Mapping[str, int]]) -> None:
    """Boxes of each class, stacked by split. `counts`: split -> class -> boxes."""
    totals: dict[str, int] = {}
    for own in counts.values():
        for name, number in own.items():
            totals[name] = totals.get(name, 0) + number
    shown = sorted(totals, key=lambda name: -totals[name])[:MOST_BARS]
    left = np.zeros(len(shown))
    for number, (split, own) in enumerate(counts.items()):
        width = np.array([own.get(name, 0) for name in shown], dtype=float)
        axes.barh(range(len(shown)), width, left=left, color=SERIES[number], label=mathless(split))
        left += width
    axes.set_yticks(range(len(shown)), [mathless(name[:24]) for name in shown])
    axes.set(xlabel="boxes")
    axes.invert_yaxis()
    axes.figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=4)


def tensor(
    axes: Axes,
    counts: NDArray[np.int64],
    width: float,
    limits: Mapping[str, float],
    chosen: str,
    colours: Sequence[str],
) -> None:
    """Histogram of a tensor's magnitudes on a logarithmic axis, and where each method ends its range.

    Args:
        counts: [n] of bins of one `width` from 0 on.
        limits: method -> largest magnitude that it keeps.
        chosen: the method that the run took; its line is thick.
        colours: of the methods, in their order.
    """
    step = -(-len(counts) // SHOWN_BINS)
    padded = np.pad(counts, (0, -len(counts) % step)).reshape(-1, step).sum(axis=1)
    last = int(np.flatnonzero(padded).max(initial=0)) + 1
    edges = np.arange(last + 1) * step * width
    axes.stairs(np.maximum(padded[:last], 0.5), edges, baseline=0.5, fill=True, color=SOFT, alpha=0.55)
    for number, (method, limit) in enumerate(limits.items()):
        mark = method == chosen
        style = "-" if mark else ("--", ":", "-.")[number % 3]
        axes.axvline(limit, color=colours[number], linestyle=style, linewidth=3 if mark else 1.6)
    axes.set(yscale="log", ylim=(0.5, None), xlim=(0, 1.04 * max([edges[-1], *limits.values(), 1e-12])))
    axes.grid(visible=False)
    # without ticks in between and formulas, which take most of the time of the many charts of tensors
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda count, _: f"10{str(round(math.log10(count))).translate(SUPERSCRIPTS)}")
