"""The comparison of the engines: the table, what it says in words, and its charts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from yolov6core.report import charts as draw
from yolov6core.report.figures import Charts
from yolov6core.report.run_files import Rows, Run

SURE = 2.0
"""Differences of more standard errors than that are taken for real."""


def best_int8(rows: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The quantized kind with the highest mAP50:95, of equal ones the faster; None without any."""
    kinds = [kind for kind in rows if kind != "float"]
    return max(kinds, key=lambda kind: (rows[kind]["map50_95"], -rows[kind]["latency_ms"]), default=None)


def comparison(run: Run, charts: Charts) -> dict[str, Any]:
    """What the template's section `comparison` shows. Raises ValueError for a comparison of nothing."""
    rows = run.rows
    if not rows:
        raise ValueError(f"{run.folders.eval / 'table.csv'} is missing or empty; run the eval-trt stage again")
    best, base = best_int8(rows), rows.get("float")
    return {
        "rows": run.table,
        "best": best,
        "cards": list(_cards(rows[best], base)) if best and base else [],
        "words": list(_in_words(rows, best)),
        "tradeoff": charts.chart(draw.tradeoff, run.table, alt=_points(run.table)),
        "per_class": per_class(run.per_class, run.kinds),
        "curves": list(_curves(run, charts)),
    }


def _cards(row: Mapping[str, Any], base: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Figure, what it is, and what it is made of."""
    kept = 100 * row["map50_95"] / base["map50_95"] if base["map50_95"] > 0 else 0.0
    yield f"{kept:.1f} %", "of the float mAP50:95 is kept", f"{base['map50_95']:.4f} float, {row['map50_95']:.4f} INT8"
    speed = row.get("speedup") or base["latency_ms"] / row["latency_ms"]
    yield f"{speed:.2f} \u00d7", "as fast as float", f"{base['latency_ms']:g} ms float, {row['latency_ms']:g} ms INT8"
    share = 100 * row["size_mb"] / base["size_mb"]
    yield f"{share:.0f} %", "of the float file's size", f"{base['size_mb']:g} MB float, {row['size_mb']:g} MB INT8"
    yield f"{row['int8_convs']} of {row['convs']}", "convolutions run in INT8", "counted in the built engine"


def _in_words(rows: Mapping[str, Mapping[str, Any]], best: str | None) -> Iterator[str]:
    if "float" not in rows:
        yield "There is no float engine in this run, so that nothing says what INT8 costs."
        return
    if best is None:
        yield "There is no INT8 engine in this run."
        return
    for kind, row in rows.items():
        if kind == "float":
            continue
        drop, error = 100 * row["drop"], 100 * (row.get("drop_error") or 0.0)
        if abs(drop) <= SURE * error or drop == 0:
            verdict = "the same accuracy as float, as far as these images can tell"
        else:
            verdict = f"{'a loss' if drop > 0 else 'a gain'} of {abs(drop):.2f} points of mAP50:95 against float"
        yield f"{kind}: {verdict} (difference {-drop:+.2f} \u00b1 {error:.2f} points)."
    wrong = [kind for kind, row in rows.items() if row.get("wrong_convs")]
    if wrong:
        yield f"Wrong sums on this CPU: {', '.join(wrong)}. Build them for it with ptq.cpu: saturating."


def per_class(rows: Rows, kinds: Sequence[str]) -> dict[str, Any]:
    """AP of each class for each kind, in percent, the classes that lose most first; None: no ground truth."""
    by_class: dict[str, dict[str, float | None]] = {}
    for row in rows:
        value = row["map50_95"]
        by_class.setdefault(row["class"], {})[row["kind"]] = None if value is None else 100 * value
    lost = {name: _worst_loss(values) for name, values in by_class.items()}
    order = sorted(by_class, key=lambda name: -lost[name])
    return {"kinds": list(kinds), "rows": [(name, [by_class[name].get(kind) for kind in kinds]) for name in order]}


def _worst_loss(values: Mapping[str, float | None]) -> float:
    base = values.get("float")
    others = [value for kind, value in values.items() if kind != "float" and value is not None]
    return base - min(others) if base is not None and others else 0.0


def _points(rows: Rows) -> str:
    points = [f"{row['kind']} at {row['latency_ms']:g} ms and {row['map50_95']:.4f}" for row in rows]
    return f"mAP50:95 against latency: {'; '.join(points)}"


def _curves(run: Run, charts: Charts) -> Iterator[tuple[str, Any]]:
    """Title and chart."""
    for name, x, y, title in (
        ("pr", "recall", "precision", "Precision and recall at IoU 0.5, mean of the classes"),
        ("f1", "confidence", "f1", "F1 over confidence, mean of the classes"),
    ):
        series = {kind: ([r[x] for r in rows], [r[y] for r in rows]) for kind, rows in run.curves(name).items() if rows}
        if series:
            yield title, charts.chart(draw.lines, series, (x, y.replace("f1", "F1")), alt=f"{title}: {_kinds(series)}")
    rounds = run.rounds()
    series = {
        kind: (
            [r["round"] for r in rounds if r["kind"] == kind],
            [r["latency_ms"] for r in rounds if r["kind"] == kind],
        )
        for kind in run.kinds
    }
    if rounds:
        title = "Median latency of each round: how steady the machine was"
        yield title, charts.chart(draw.lines, series, ("round", "latency, ms"), alt=f"{title}: {_kinds(series)}")


def _kinds(series: Mapping[str, Any]) -> str:
    return f"one line for each of {', '.join(series)}"
