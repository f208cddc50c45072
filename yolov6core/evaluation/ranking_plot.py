"""A picture of which layers suffer from quantization, and which were left float."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path


def ranking_picture(
    harm: Mapping[str, float], path: Path, *, marked: Collection[str] = (), label: str, limit: int = 40
) -> None:
    """Save a bar chart of the layers, the worst on top, on a logarithmic axis.

    Args:
        harm: layer -> share of the whole harm, 0..1.
        path: PNG to write.
        marked: layers in another colour: those that stay float.
        label: of the axis.
        limit: so many layers are shown, and the marked ones in any case.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    order = sorted(harm, key=lambda name: (-harm[name], name))
    shown = [name for place, name in enumerate(order) if place < limit or name in marked]
    figure = Figure(figsize=(8, 1 + 0.2 * len(shown)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    smallest = min((value for value in harm.values() if value > 0), default=1e-6)
    axes.set(xscale="log", xlim=(50 * smallest, 200 * max(*harm.values(), smallest)))
    colours = ["tab:red" if name in marked else "tab:blue" for name in shown]
    axes.barh(shown, [100 * max(harm[name], smallest) for name in shown], color=colours)
    axes.invert_yaxis()
    axes.set_xlabel(label)
    axes.set_title("stays float: red" if marked else "all layers in INT8")
    axes.tick_params(axis="y", labelsize=7)
    axes.margins(y=0.01)
    # no date and no version in the file: equal contents, equal bytes
    figure.savefig(path, dpi=80, metadata={"Software": None})
