"""A picture of accuracy against speed: one point for each engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:purple", "tab:red", "tab:olive", "tab:cyan")
MARKERS = "osD^vPX"
"""Of the kinds, so that colour is never the only difference."""

Points = Mapping[str, tuple[float, float, float]]
"""Kind of engine -> milliseconds, mAP50:95 in 0..1, and its standard error; at least one."""


def tradeoff_picture(points: Points, path: Path, *, title: str) -> None:
    """Save a picture of mAP against latency as PNG or JPEG."""
    tradeoff_figure(points, title=title).savefig(path, dpi=100)


def tradeoff_figure(points: Points, *, title: str) -> Figure:
    """The figure of `tradeoff_picture`."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.grid(alpha=0.3)
    axes.set_title(title)
    draw_tradeoff(axes, points, COLOURS)
    return figure


def draw_tradeoff(axes: Axes, points: Points, colours: Sequence[str]) -> None:
    """Points with their standard errors. A legend above names them: beside points, names of near ones would collide."""
    for number, (kind, (milliseconds, score, error)) in enumerate(points.items()):
        axes.errorbar(
            milliseconds,
            score,
            yerr=error,
            fmt=MARKERS[number % len(MARKERS)],
            color=colours[number % len(colours)],
            markersize=8,
            capsize=4,
            label=f"{kind}: {milliseconds:g} ms, {score:.4f}",
        )
    axes.set(xlabel="latency, ms (batch 1; left is better)", ylabel="mAP50:95 (up is better)")
    axes.set_xlim(0, 1.1 * max(milliseconds for milliseconds, _, _ in points.values()))
    axes.margins(y=0.25)
    axes.figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
