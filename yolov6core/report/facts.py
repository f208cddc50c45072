"""Facts around the figures: the dataset, the environment, the parameters, the exported files, and what is not known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from yolov6core.base.yaml_text import parse_yaml
from yolov6core.report import charts as draw
from yolov6core.report.figures import Charts
from yolov6core.report.run_files import Run

DEFAULTS = Path(__file__).parent / "defaults.yaml"
"""The parameters that the project comes with: a copy of `params.yaml`."""
Parameters = Mapping[str, Mapping[str, Any]]
MISSING = object()


def dataset_facts(run: Run, names: tuple[str, ...], charts: Charts) -> dict[str, Any]:
    """Splits, classes and sizes of objects, and the problems that were found."""
    counts: dict[str, dict[str, int]] = {}
    for row in run.statistics:
        counts.setdefault(row["split"], {})[row["class"]] = row["boxes"]
    boxes = {split: sum(own.values()) for split, own in counts.items()}
    alt = f"Boxes of each class: {'; '.join(f'{split} {number}' for split, number in boxes.items())}"
    problems = run.data_report.get("kinds", {})
    return {
        "classes": len(names),
        "boxes": boxes,
        "rows": run.statistics,
        "chart": charts.chart(draw.class_bars, counts, alt=alt) if counts else "",
        "problems": [
            (name.replace("_", " "), entry["count"], entry["meaning"])
            for name, entry in problems.items()
            if entry["count"]
        ],
        "checks": len(problems),
    }


def differing_parameters(values: Parameters) -> list[tuple[str, Any, Any]]:
    """Name, default and value of each parameter that is not the default; a default of None: there is none."""
    defaults = parse_yaml(DEFAULTS.read_text(encoding="utf-8"))
    rows = []
    for section, own in values.items():
        for key, value in own.items():
            default = defaults.get(section, {}).get(key, MISSING)
            if default is MISSING or default != value:
                rows.append((f"{section}.{key}", None if default is MISSING else str(default), str(value)))
    return rows


def exported_files(run: Run) -> list[dict[str, Any]]:
    """The files of `export-onnx` with what their check has found."""
    return [{"name": name} | row for name, row in run.checks.items()]


def environment_rows(run: Run) -> Iterator[tuple[str, str]]:
    """Name and value of what the figures were measured on."""
    known = run.environment
    for engine in list(run.engines.values())[:1]:
        settings = engine.get("settings", {})
        yield "runtime", f"{engine.get('runtime')} {engine.get('version')} on {engine.get('device')}"
        yield "input", " \u00d7 ".join(str(side) for side in engine.get("input_shape", []))
        yield "threads", str(settings.get("threads") or "all cores")
        yield "layers that are not INT8", str(engine.get("precision"))
    for name, title in (("cpu", "CPU"), ("cores", "cores"), ("int8", "INT8 on this CPU"), ("system", "system")):
        if known.get(name):
            yield title, str(known[name])
    if "gpus" in known:
        yield "GPU", ", ".join(known["gpus"]) or "none"
    if "python" in known:
        yield "Python", known["python"]
    for name, version in known.get("packages", {}).items():
        yield name, version or "missing"
    if known.get("commit"):
        yield "commit", known["commit"] + (" with edits that were not committed" if known.get("edited") else "")
    if known.get("code"):
        yield "digest of the code", known["code"]


def not_measured(run: Run) -> Iterator[tuple[str, str]]:
    """What this run does not know, and why."""
    used = {engine.get("runtime") for engine in run.engines.values()}
    for found in run.environment.get("runtimes", []):
        if found["name"] in used:
            continue
        why = found["problem"] or ("" if found["runs"] else "it builds here, and there is no GPU to run on")
        yield f"Engines of {found['name']}", why or "engine.runtime chose another runtime; set it to measure this one"
    formats = sorted({row["dialect"] for row in run.checks.values()} - _measured_dialects(run))
    if formats:
        yield (
            f"Speed and mAP of the files of dialect {', '.join(formats)}",
            "other runtimes read them; here they were compared with torch on a few images only",
        )
    yield (
        "Other seeds",
        "the report shows one run; the errors tell of the images' part in chance, not of the training's. "
        "benchmarks/seeds.py runs several",
    )
    if not any(row.get("end_to_end_ms") for row in run.table):
        yield "End to end times", "artifacts/eval was made by an earlier version; run eval-trt again"
    yield "Reading and decoding images", "times begin with a decoded picture in memory"
    yield "Power and memory", "no stage measures them"


def _measured_dialects(run: Run) -> set[str]:
    return {engine.get("dialect", "") for engine in run.engines.values()}
