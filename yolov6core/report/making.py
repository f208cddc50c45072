"""How the networks were made: trainings, scales, calibration and the layers that stay float."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from yolov6core.report import charts as draw
from yolov6core.report.figures import NAMES, SERIES, Charts
from yolov6core.report.run_files import Rows, Run

TITLES = {
    "search": "Search for RepOptimizer's scales (search-scales)",
    "float": "Float training (train-repopt)",
    "qat": "Quantization-aware training (qat-distill)",
}
NOT_TRAINED = {
    "search": "No search: the scales were given, or none are used (search.scales).",
    "float": "No float training: the weights were taken as they are (train.epochs: 0).",
    "qat": "No quantization-aware training in this run.",
}
OTHER_COLUMNS = ("epoch", "lr", "total", "map50_95", "map50", "agreement")
OPEN_TENSORS = 6
"""Tensors that are shown at once; the others wait behind a click."""
MOST_TENSORS = 150
"""More are in `histograms.npz` only: the page has to stay small enough to mail."""


def trainings(run: Run, charts: Charts) -> list[dict[str, Any]]:
    """Title, charts and a remark for each training."""
    return [
        {
            "title": TITLES[name],
            "remark": "" if rows else NOT_TRAINED[name],
            "charts": list(_training(rows, TITLES[name], charts)),
        }
        for name, rows in run.epochs().items()
    ]


def _training(rows: Rows, title: str, charts: Charts) -> Iterator[Any]:
    if not rows:
        return
    terms = {name: _column(rows, name) for name in rows[0] if name not in OTHER_COLUMNS}
    losses = {"sum of the weighted losses": _column(rows, "total")} if "total" in rows[0] else {}
    losses |= {name.replace("_", " "): points for name, points in terms.items() if points[0]}
    last = rows[-1].get("total")
    yield charts.chart(draw.lines, losses, ("epoch", "loss"), alt=f"{title}: losses over the epochs, {last} at the end")
    scores = {
        label: _column(rows, name)
        for name, label in (("map50_95", "mAP50:95"), ("map50", "mAP50"), ("agreement", "agreement with float"))
        if name in rows[0]
    }
    scores = {label: points for label, points in scores.items() if points[0]}
    if scores:
        best = max(scores.get("mAP50:95", ([], [0.0]))[1])
        alt = f"{title}: scores on the select split, mAP50:95 at most {best:.4f}"
        yield charts.chart(draw.lines, scores, ("epoch", "on the select split"), alt=alt)


def _column(rows: Rows, name: str) -> tuple[list[float], list[float]]:
    """Epochs and values where there is one."""
    points = [(row["epoch"], row[name]) for row in rows if row.get(name) is not None]
    return [x for x, _ in points], [y for _, y in points]


def scale_facts(run: Run, charts: Charts) -> dict[str, Any]:
    """How far the scales have moved from where they began."""
    if not run.scales:
        return {"remark": "This run uses no scales."}
    moved = [row["moved"] for row in run.scales]
    most = max(run.scales, key=lambda row: row["moved"])
    alt = f"Scales of {len(moved)} branches: mean, smallest and largest of each block"
    return {
        "mean": sum(moved) / len(moved),
        "most": most,
        "chart": charts.chart(draw.scales, run.scales, alt=alt, size=(5.0, 3.5)),
    }


def calibration(run: Run, charts: Charts) -> dict[str, Any]:
    """The methods' scores on select, and each tensor's histogram with the ranges of the methods."""
    chosen = run.methods.get("chosen")
    scores = run.methods.get("select", {})
    methods = list(dict.fromkeys(row["method"] for row in run.ranges))
    colours = [SERIES[number % len(SERIES)] for number in range(len(methods))]
    tensors = _tensors(run, chosen)
    histograms = run.histograms()
    shown = [name for name in tensors if name in histograms][:MOST_TENSORS]
    drawn = [_tensor(name, tensors[name], histograms[name], chosen, colours, charts) for name in shown]
    health = run.methods.get("health", {})
    return {
        "chosen": chosen,
        "images": run.methods.get("images"),
        "scores": [(name, values) for name, values in scores.items()],
        "methods": [(name, NAMES[colour]) for name, colour in zip(methods, colours, strict=True)],
        "first": drawn[:OPEN_TENSORS],
        "others": drawn[OPEN_TENSORS:],
        "left_out": len(tensors) - len(drawn),
        "health": [(name.replace("_", " "), found) for name, found in health.items() if found],
        "remark": "" if tensors else "No calibration in this run: the ranges were given.",
    }


def _tensors(run: Run, chosen: str | None) -> dict[str, dict[str, dict[str, Any]]]:
    """Tensor -> method -> its row; the tensors with the lowest signal-to-noise ratio under the chosen method first."""
    tensors: dict[str, dict[str, dict[str, Any]]] = {}
    for row in run.ranges:
        tensors.setdefault(row["group"], {})[row["method"]] = row

    def ratio(name: str) -> float:
        row = tensors[name].get(chosen or "") or next(iter(tensors[name].values()))
        return float("inf") if row["sqnr_db"] is None else row["sqnr_db"]

    return {name: tensors[name] for name in sorted(tensors, key=ratio)}


def _tensor(
    name: str,
    rows: Mapping[str, Mapping[str, Any]],
    histogram: Any,
    chosen: str | None,
    colours: list[str],
    charts: Charts,
) -> dict[str, Any]:
    counts, width = histogram
    limits = {method: max(abs(row["amin"] or 0.0), abs(row["amax"] or 0.0)) for method, row in rows.items()}
    ends = ", ".join(f"{method} {limit:.3g}" for method, limit in limits.items())
    chart = charts.chart(
        draw.tensor,
        counts,
        width,
        limits,
        chosen or "",
        colours,
        alt=f"{name}: histogram of magnitudes; ranges end at {ends}",
        size=(3.4, 1.7),
        margins=(0.11, 0.14, 0.99, 0.97),
    )
    return {"name": name, "row": rows.get(chosen or "", {}), "chart": chart}


def float_layers(run: Run, charts: Charts) -> dict[str, Any]:
    """The ranking of the layers, the layers that stay float, and the trials that led to it."""
    kept = list(run.choice.get("float_layers", []))
    trials = run.choice.get("trials", [])
    if not run.ranking:
        return {"remark": "No ranking in this run.", "kept": kept, "trials": trials}
    top = [f"{row['layer']} {100 * row['sensitivity']:.1f} %" for row in run.ranking[:3]]
    return {
        "kept": kept,
        "trials": trials,
        "why": _why(kept, trials),
        "float_score": run.choice.get("float_score"),
        "chart": charts.chart(
            draw.ranking,
            run.ranking,
            alt=f"Share of the quantization error, most sensitive layers first: {', '.join(top)}",
            size=(5.0, 5.4),
        ),
    }


def _why(kept: list[str], trials: list[dict[str, Any]]) -> str:
    """The choice in words."""
    tried = [trial for trial in trials if trial["float_layers"]]
    if kept:
        own = next((trial for trial in trials if trial["float_layers"] == kept), None)
        gain = f": with them mAP50:95 on select changes by {100 * own['gain']:+.2f} points" if own else ""
        return f"{len(kept)} {'layer stays' if len(kept) == 1 else 'layers stay'} float{gain}."
    if not tried:
        return "All layers run in INT8: no set of float layers was tried."
    best = max(tried, key=lambda trial: trial["gain"])
    return (
        f"All layers run in INT8: leaving {len(best['float_layers'])} layers float changes mAP50:95 on select by "
        f"{100 * best['gain']:+.2f} points, with a standard error of {100 * best['noise']:.2f}. That is no sure gain."
    )
