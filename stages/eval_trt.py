"""`eval-trt`: one evaluator over every engine: mAP on val, latency, throughput, size, and the pictures to see it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stages.params import EvalParams
from stages.shared import paths
from stages.shared.limits import limits_of
from stages.shared.shell import required
from stages.shared.start_line import log_start
from yolov6core.base.atomic import replace_folder, write_json
from yolov6core.base.errors import UserError, logger
from yolov6core.base.progress import tracked
from yolov6core.data.dataset import DetectionDataset
from yolov6core.engines.complaints import is_wrong_here, missing_int8, no_gain, unsuitable_cpu
from yolov6core.engines.latency import speedup
from yolov6core.engines.registry import open_exact
from yolov6core.engines.runtime import SIDECAR, Engine, EngineInfo
from yolov6core.engines.tensorrt_calibration import SCALES
from yolov6core.evaluation.class_table import log_classes
from yolov6core.evaluation.evaluator import EvalResult
from yolov6core.serving.certainty import certainty
from yolov6core.serving.comparison_files import (
    write_curves,
    write_detections,
    write_rounds,
    write_samples,
    write_summary,
    write_tables,
)
from yolov6core.serving.engine_evaluation import Times, evaluate_engine, measure_engines
from yolov6core.serving.environment import environment
from yolov6core.serving.open_engine import open_folder

METRICS = paths.METRICS / "eval"
IN_METRICS = ("map50_95", "map50", "latency_ms", "size_mb", "speedup")
"""Keys of the metrics files; all others are in the tables, so that comparisons of experiments show no timing noise."""
TIME_DIGITS = 3
"""Digits of measured times; more would be noise."""


def eval_trt(
    evaluation: EvalParams,
    *,
    dataset_dir: Path = paths.DATASET,
    engines_dir: Path = paths.ENGINES,
    out: Path = paths.EVAL,
    metrics: Path = METRICS,
) -> None:
    """Write `<kind>.json` into `metrics`; tables, curves, `summary.png` and `samples/` into `out`.

    Raises:
        UserError: an engine of another runtime version or device, or one that cannot run here.
    """
    dataset = DetectionDataset(required(dataset_dir, made_by="prepare-voc2yolo"), "val")
    engines = _open(required(engines_dir, made_by="build-trt"))
    infos = {kind: engine.info for kind, engine in engines.items()}
    log_start("eval-trt", device="; ".join(dict.fromkeys(map(_place, infos.values()))))
    how: dict[str, Any] = {"limits": limits_of(evaluation), "batch_size": evaluation.batch_size}
    engine_by_kind = tracked(engines.items(), "mAP of engines", unit="engines")
    results = {kind: evaluate_engine(engine, dataset, **how) for kind, engine in engine_by_kind}
    times = measure_engines(
        engines, dataset, limits=limits_of(evaluation), rounds=evaluation.rounds, repeats=evaluation.repeats
    )
    sure = certainty(dataset.ground_truth(), results)
    rows = {kind: _row(kind, infos[kind], results[kind], times, engines_dir / kind) | sure[kind] for kind in engines}
    for kind, info in infos.items():
        _warn_of_cpu(info, results[kind], engines_dir / kind, dataset, how)
        for text in filter(None, (no_gain(info, rows[kind].get("speedup")), missing_int8(info))):
            logger.warning("%s: %s", kind, text)
    with replace_folder(out) as folder:
        write_tables(folder, rows, infos, results)
        write_curves(folder, dataset, results)
        write_summary(folder, rows, infos)
        write_samples(folder / "samples", dataset, results, evaluation.samples)
        write_rounds(folder / "rounds.csv", times)
        write_detections(folder / "detections.csv", results)
        write_json(folder / "environment.json", environment())
    log_classes(results)
    for kind in paths.KINDS:
        row = rows.get(kind, {})  # DVC wants every file of dvc.yaml, also where `naive` is not asked for
        write_json(metrics / f"{kind}.json", {key: row[key] for key in IN_METRICS if key in row})
    for kind, row in rows.items():
        logger.info("%-8s %s", kind, "  ".join(f"{key} {value:.4g}" for key, value in row.items()))


def _open(folder: Path) -> dict[str, Engine]:
    engines = {kind: open_folder(folder / kind) for kind in paths.KINDS if (folder / kind).is_dir()}
    if not engines:
        raise UserError(f"{folder} holds no engines: run 'dvc repro build-trt' first")
    return engines


def _place(info: EngineInfo) -> str:
    threads = f", {info.settings.threads or 'all'} threads" if info.device == "CPU" else ""
    return f"{info.runtime} {info.version} on {info.device}{threads}"


def _row(kind: str, info: EngineInfo, result: EvalResult, times: Times, folder: Path) -> dict[str, Any]:
    """The comparison's keys for one engine."""
    latency = times.latency[kind]
    files = [path for path in folder.iterdir() if path.name not in (SIDECAR, SCALES)]
    row = {
        "map50_95": result.stats["map50_95"],
        "map50": result.stats["map50"],
        "latency_ms": _digits(latency.median_ms),
        "fps": _digits(1000 * times.images[kind] / times.stream[kind].median_ms),
        "size_mb": round(sum(path.stat().st_size for path in files) / 1e6, 2),
        "int8_convs": info.int8_convs,
        "wrong_convs": info.overflowing_convs if is_wrong_here(info) else 0,
    }
    if "float" in times.latency:
        row["speedup"] = _digits(speedup(times.latency["float"], latency))
    if kind in times.compute_ms:
        row["compute_ms"] = _digits(times.compute_ms[kind])
    return row | {
        "latency_p90_ms": _digits(latency.p90_ms),
        "latency_p99_ms": _digits(latency.p99_ms),
        "pre_ms": _digits(times.pre_ms),
        "post_ms": _digits(times.post_ms[kind]),
        "end_to_end_ms": _digits(times.whole_ms[kind]),
    }


def _digits(value: float) -> float:
    return float(f"{value:.{TIME_DIGITS}g}")


def _warn_of_cpu(
    info: EngineInfo, result: EvalResult, folder: Path, dataset: DetectionDataset, how: dict[str, Any]
) -> None:
    """Say whether an engine does not suit the CPU at hand, and the mAP that it loses where its sums are wrong here."""
    text = unsuitable_cpu(info)
    if not text:
        return
    lost = ""
    exact = open_exact(folder) if is_wrong_here(info) else None
    if exact is not None:
        right, found = evaluate_engine(exact, dataset, **how).stats["map50_95"], result.stats["map50_95"]
        lost = f"; mAP50:95 is {found:.4f} here and {right:.4f} in exact arithmetic"
    logger.warning("%s: %s%s", folder.name, text, lost)
