"""A picture of the sensitivity of layers to quantization, and of the layers that stay float."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from matplotlib.figure import Figure


def ranking_picture(
    sensitivity: Mapping[str, float], path: Path, *, marked: Collection[str] = (), label: str, limit: int = 40
) -> None:
    """Save a bar chart of the layers on a logarithmic axis, the most sensitive layer on top.

    Args:
        sensitivity: layer to its share of the sum over all layers, 0..1.
        path: PNG to write.
        marked: the layers that stay float, drawn in red.
        label: of the axis.
        limit: number of layers shown; marked layers are shown in any case.
    """
    order = sorted(sensitivity, key=lambda name: (-sensitivity[name], name))
    shown = [name for place, name in enumerate(order) if place < limit or name in marked]
    figure = Figure(figsize=(8, 1 + 0.2 * len(shown)), layout="constrained")
    axes = figure.subplots()
    smallest = min((value for value in sensitivity.values() if value > 0), default=1e-6)
    axes.set(xscale="log", xlim=(50 * smallest, 200 * max(*sensitivity.values(), smallest)))
    colours = ["tab:red" if name in marked else "tab:blue" for name in shown]
    axes.barh(shown, [100 * max(sensitivity[name], smallest) for name in shown], color=colours)
    axes.invert_yaxis()
    axes.set_xlabel(label)
    axes.set_title("stays float: red" if marked else "all layers in INT8")
    axes.tick_params(axis="y", labelsize=7)
    axes.margins(y=0.01)
    # no date and no version in the file: equal contents, equal bytes
    figure.savefig(path, dpi=80, metadata={"Software": None})
