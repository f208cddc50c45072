"""`eval-trt`: one evaluator over every engine: mAP on val, latency, throughput, size, and the pictures to see it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from stages._params import DEFAULT_PARAMS, Bounds, ParamsFile, read_params
from stages._report import StageError, logger, need, replace_folder, stage_errors, write_json

if TYPE_CHECKING:
    from yolov6core.data.dataset import DetectionDataset
    from yolov6core.engines.latency import Latency
    from yolov6core.engines.runtime import Engine
    from yolov6core.evaluation.evaluator import EvalResult

DATASET = Path("artifacts/dataset")
ENGINES = Path("artifacts/engines")
OUT = Path("artifacts/eval")
METRICS = Path("metrics/eval")
VARIANTS = ("float", "ptq", "partial", "qat")
REBUILD = "rebuild it here with 'dvc repro --force build-trt'"


@dataclass(frozen=True)
class EvalParams:
    """Section `eval`: detection thresholds, and how long latency is measured."""

    score_threshold: Annotated[float, Bounds(0, 1)]
    iou_threshold: Annotated[float, Bounds(0, 1)]
    max_detections: Annotated[int, Bounds(1, 10_000)]
    batch_size: Annotated[int, Bounds(1, 4096)]
    rounds: Annotated[int, Bounds(1, 1000)]
    repeats: Annotated[int, Bounds(1, 10_000)]
    samples: Annotated[int, Bounds(0, 1000)]


def eval_trt_cli(params: ParamsFile = DEFAULT_PARAMS) -> None:
    """Compare all engines on the val split: artifacts/eval, metrics/eval."""
    (evaluation,) = read_params(params, eval=EvalParams)
    with stage_errors():
        eval_trt(evaluation)


def eval_trt(
    evaluation: EvalParams,
    *,
    dataset_dir: Path = DATASET,
    engines_dir: Path = ENGINES,
    out: Path = OUT,
    metrics: Path = METRICS,
) -> None:
    """Write `<variant>.json` into `metrics`, and `table.csv`, `per_class.csv`, `pr.csv` and `samples/` into `out`.

    Raises:
        StageError: an engine of another runtime version or device, or one that cannot run here.
    """
    from yolov6core.data.dataset import DetectionDataset

    dataset = DetectionDataset(need(dataset_dir, "prepare-voc2yolo"), "val")
    engines = _open(need(engines_dir, "build-trt"))
    results = {name: _evaluate(engine, dataset, evaluation) for name, engine in engines.items()}
    latencies = _latencies(engines, evaluation)
    rows = {name: _row(name, engines, results, latencies, engines_dir) for name in engines}
    _warn(rows, engines)
    with replace_folder(out) as folder:
        _write_tables(folder, rows, engines, results, dataset.names)
        _write_samples(folder / "samples", dataset, results, evaluation.samples)
    for name, row in rows.items():
        write_json(metrics / f"{name}.json", row)
        logger.info("%-8s %s", name, "  ".join(f"{key} {value:.4g}" for key, value in row.items()))


def _open(folder: Path) -> dict[str, Engine]:
    from yolov6core.engines.registry import open_engine
    from yolov6core.engines.runtime import EngineMismatch, RuntimeMissing

    engines = {}
    for name in VARIANTS:
        if not (folder / name).is_dir():
            continue
        try:
            engines[name] = open_engine(folder / name)
        except EngineMismatch as error:
            raise StageError(f"{folder / name}: {error}; {REBUILD}") from None
        except RuntimeMissing as error:
            raise StageError(f"{folder / name}: {error}; choose another engine.runtime, or {REBUILD}") from None
    if not engines:
        raise StageError(f"{folder} holds no engines: run 'dvc repro build-trt' first")
    return engines


def _evaluate(engine: Engine, dataset: DetectionDataset, evaluation: EvalParams) -> EvalResult:
    from yolov6core.evaluation.evaluator import evaluate

    batch, _, height, width = engine.info.input_shape
    return evaluate(
        lambda images: engine.infer(images.numpy()),
        dataset,
        image_size=(height, width),
        batch_size=min(evaluation.batch_size, engine.info.settings.max_batch) if batch == -1 else batch,
        score_threshold=evaluation.score_threshold,
        iou_threshold=evaluation.iou_threshold,
        max_detections=evaluation.max_detections,
    )


def _latencies(engines: dict[str, Engine], evaluation: EvalParams) -> dict[str, Latency]:
    """Batch 1 (or the engine's own fixed batch), all engines in turns."""
    import numpy as np

    from yolov6core.engines.latency import measure

    calls = {}
    for name, engine in engines.items():
        shape = (max(engine.info.input_shape[0], 1), *engine.info.input_shape[1:])
        # Values do not change the time of a convolution; a seeded picture of noise keeps runs alike.
        images = np.random.default_rng(0).random(shape, dtype=np.float32)
        calls[name] = lambda engine=engine, images=images: engine.infer(images)
    return measure(calls, rounds=evaluation.rounds, repeats=evaluation.repeats)


def _row(
    name: str,
    engines: dict[str, Engine],
    results: dict[str, EvalResult],
    latencies: dict[str, Latency],
    engines_dir: Path,
) -> dict[str, Any]:
    """The comparison's keys for one engine; times carry three digits, more would be noise."""
    from yolov6core.engines.latency import speedup

    info, latency = engines[name].info, latencies[name]
    batch = max(info.input_shape[0], 1)
    files = [path for path in (engines_dir / name).iterdir() if path.name != "engine.json"]
    row = {
        "map50_95": results[name].stats["map50_95"],
        "map50": results[name].stats["map50"],
        "latency_ms": _digits(latency.median_ms, 3),
        "fps": _digits(1000 * batch / latency.median_ms, 3),
        "size_mb": round(sum(path.stat().st_size for path in files) / 1e6, 2),
        "int8_convs": info.int8_convs,
    }
    if "float" in latencies:
        row["speedup"] = _digits(speedup(latencies["float"], latency), 3)
    return row


def _digits(value: float, count: int) -> float:
    return float(f"{value:.{count}g}")


def _warn(rows: dict[str, dict[str, Any]], engines: dict[str, Engine]) -> None:
    """Say loudly what makes an INT8 engine pointless."""
    for name, row in rows.items():
        info = engines[name].info
        if info.wanted_int8 and row.get("speedup", 2.0) <= 1:
            logger.warning(
                "%s IS NOT FASTER THAN FLOAT (%.3g times). %d of %d convolutions run in INT8 with %s; "
                "look at the float layers below, and at 'python -m stages doctor' for the CPU's INT8 instructions",
                name,
                row["speedup"],
                info.int8_convs,
                info.convs,
                info.runtime,
            )
        if 0 <= info.int8_convs < info.wanted_int8:
            logger.warning(
                "%s: %d convolutions that should be INT8 run in float; float layers: %s",
                name,
                info.wanted_int8 - info.int8_convs,
                ", ".join(info.float_layers),
            )


def _write_tables(
    folder: Path,
    rows: dict[str, dict[str, Any]],
    engines: dict[str, Engine],
    results: dict[str, EvalResult],
    names: tuple[str, ...],
) -> None:
    import pandas as pd

    from yolov6core.evaluation.plots import precision_recall_rows

    base = rows.get("float", {}).get("map50_95", float("nan"))
    table = [
        {"variant": name, "runtime": engines[name].info.runtime, "precision": engines[name].info.precision}
        | row
        | {"drop": base - row["map50_95"], "convs": engines[name].info.convs}
        for name, row in rows.items()
    ]
    classes = [
        {"variant": name, "class": label} | figures
        for name, result in results.items()
        for label, figures in result.per_class.items()
    ]
    curves = [
        {"variant": name} | row
        for name, result in results.items()
        for row in precision_recall_rows(result.coco, list(names))
    ]
    for file, content in (("table", table), ("per_class", classes), ("pr", curves)):
        pd.DataFrame(content).round(5).to_csv(folder / f"{file}.csv", index=False)


def _write_samples(folder: Path, dataset: DetectionDataset, results: dict[str, EvalResult], count: int) -> None:
    """Ground truth, float and INT8 side by side, for images spread over the val split."""
    from yolov6core.evaluation.plots import comparison, save_jpeg

    folder.mkdir()
    shown = [name for name in ("float", "ptq", "qat") if name in results]
    for index in sorted({round(i * (len(dataset) - 1) / max(count - 1, 1)) for i in range(count)}):
        image, labels = dataset.load(index)
        found = {name: results[name].detections[dataset.image_ids[index]] for name in shown}
        picture = comparison(image, labels, found, dataset.names, width=320 * (1 + len(shown)))
        save_jpeg(picture, folder / f"{dataset.paths[index].stem}.jpg")
