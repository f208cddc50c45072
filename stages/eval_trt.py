"""`eval-trt`: one evaluator over every engine: mAP on val, latency, throughput, size, and the pictures to see it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from stages._eval_files import spread, write_curves, write_samples, write_summary, write_tables
from stages._params import DEFAULT_PARAMS, Bounds, ParamsFile, read_params
from stages._report import need, stage_errors
from yolov6core.atomic import replace_folder, write_json
from yolov6core.errors import UserError, logger

if TYPE_CHECKING:
    from yolov6core.data.dataset import DetectionDataset
    from yolov6core.engines.latency import Latency
    from yolov6core.engines.runtime import Engine, EngineInfo
    from yolov6core.evaluation.evaluator import EvalResult

DATASET = Path("artifacts/dataset")
ENGINES = Path("artifacts/engines")
OUT = Path("artifacts/eval")
METRICS = Path("metrics/eval")
VARIANTS = ("float", "ptq", "partial", "qat")
REBUILD = "rebuild it here with 'dvc repro --force build-trt'"
STREAM_BATCH = 32
"""Throughput is measured at this batch, where the batch is open and the engine takes as much."""
AROUND_IMAGES = 32
"""So many images of val tell what the work before and after the network takes."""


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


@dataclass(frozen=True)
class Times:
    """Measured times.

    Attributes:
        latency: of single calls.
        stream: of calls that run `images` images as fast as the runtime can.
        pre_ms, post_ms: milliseconds an image before (all engines alike) and after the network.
    """

    latency: dict[str, Latency]
    stream: dict[str, Latency]
    images: dict[str, int]
    pre_ms: float
    post_ms: dict[str, float]


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
    """Write `<variant>.json` into `metrics`; tables, curves, `summary.png` and `samples/` into `out`.

    Raises:
        UserError: an engine of another runtime version or device, or one that cannot run here.
    """
    from yolov6core.data.dataset import DetectionDataset

    dataset = DetectionDataset(need(dataset_dir, "prepare-voc2yolo"), "val")
    engines = _open(need(engines_dir, "build-trt"))
    results = {name: _evaluate(engine, dataset, evaluation) for name, engine in engines.items()}
    times = _times(engines, dataset, evaluation)
    infos = {name: engine.info for name, engine in engines.items()}
    rows = {name: _row(name, infos[name], results[name], times, engines_dir / name) for name in engines}
    _tell_lost(results, infos, dataset, evaluation, engines_dir)
    _warn(rows, infos)
    with replace_folder(out) as folder:
        write_tables(folder, rows, infos, results)
        write_curves(folder, dataset, results)
        write_summary(folder, rows, infos)
        write_samples(folder / "samples", dataset, results, evaluation.samples)
        _write_rounds(folder / "rounds.csv", times)
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
            raise UserError(f"{folder / name}: {error}; {REBUILD}") from None
        except RuntimeMissing as error:
            raise UserError(f"{folder / name}: {error}; choose another engine.runtime, or {REBUILD}") from None
    if not engines:
        raise UserError(f"{folder} holds no engines: run 'dvc repro build-trt' first")
    return engines


def _evaluate(engine: Engine, dataset: DetectionDataset, evaluation: EvalParams) -> EvalResult:
    from stages._evaluation import View
    from yolov6core.engines.runtime import infer_any
    from yolov6core.evaluation.evaluator import evaluate

    batch, _, height, width = engine.info.input_shape
    return evaluate(
        lambda images: infer_any(engine, images.numpy()),
        View(dataset, shrink=engine.info.interface.shrink),
        image_size=(height, width),
        batch_size=min(evaluation.batch_size, engine.info.settings.max_batch) if batch == -1 else batch,
        score_threshold=evaluation.score_threshold,
        iou_threshold=evaluation.iou_threshold,
        max_detections=evaluation.max_detections,
    )


def _tell_lost(
    results: dict[str, EvalResult],
    infos: dict[str, EngineInfo],
    dataset: DetectionDataset,
    evaluation: EvalParams,
    engines_dir: Path,
) -> None:
    """Say which engines do not suit the CPU at hand, and what those lose whose sums are wrong here."""
    from yolov6core.engines.cpu import is_wrong_here, warning
    from yolov6core.engines.registry import open_exact

    for name, info in infos.items():
        if not warning(info):
            continue
        lost = ""
        if is_wrong_here(info):
            exact = _evaluate(open_exact(engines_dir / name), dataset, evaluation).stats["map50_95"]
            found = results[name].stats["map50_95"]
            lost = f"; mAP50:95 is {found:.4f} here and {exact:.4f} in exact arithmetic"
        logger.warning("%s: %s%s", name, warning(info), lost)


def _times(engines: dict[str, Engine], dataset: DetectionDataset, evaluation: EvalParams) -> Times:
    """All engines in turns: calls of batch 1 (or the engine's own), streams of calls, and the work around them."""
    import numpy as np

    from yolov6core.engines.latency import measure

    rng = np.random.default_rng(0)
    single, streams, images = {}, {}, {}
    for name, engine in engines.items():
        batch, *rest = engine.info.input_shape
        most = min(STREAM_BATCH, engine.info.settings.max_batch) if batch == -1 else batch
        # Values do not change the time of a convolution; a seeded picture of noise keeps runs alike.
        one, many = (rng.random((size, *rest), dtype=np.float32) for size in (max(batch, 1), most))
        images[name] = evaluation.repeats * most
        single[name] = lambda engine=engine, one=one: engine.infer(one)
        streams[name] = lambda engine=engine, many=many: engine.stream(many, evaluation.repeats)
        engine.stream(many, 2)  # compiles what streams need
    latency = measure(single, rounds=evaluation.rounds, repeats=evaluation.repeats)
    stream = measure(streams, rounds=evaluation.rounds, repeats=1, warmup=0)
    return Times(latency, stream, images, *_around(engines, dataset, evaluation))


def _around(
    engines: dict[str, Engine], dataset: DetectionDataset, evaluation: EvalParams
) -> tuple[float, dict[str, float]]:
    """Median milliseconds an image of letterboxing a decoded image, and of suppression for each engine."""
    import time
    from statistics import median

    import numpy as np

    from yolov6core.data.loader import shrunk
    from yolov6core.data.transforms import chw_rgb, letterbox
    from yolov6core.engines.runtime import infer_any
    from yolov6core.evaluation.evaluator import in_source_pixels
    from yolov6core.evaluation.nms import nms

    before: list[float] = []
    after: dict[str, list[float]] = {name: [] for name in engines}
    info = next(iter(engines.values())).info
    size, inside = info.input_shape[2:], shrunk(info.input_shape[2:], info.interface.shrink)
    for index in spread(len(dataset), AROUND_IMAGES):
        image, labels = dataset.load(index)
        start = time.perf_counter()
        picture, _, geometry = letterbox(image, labels, size=size, inside=inside)
        batch = chw_rgb(picture)[None].astype(np.float32) / np.float32(255)
        before.append(1000 * (time.perf_counter() - start))
        for name, engine in engines.items():
            boxes, scores = infer_any(engine, batch)
            start = time.perf_counter()
            found = nms(
                boxes[0],
                scores[0],
                score_threshold=evaluation.score_threshold,
                iou_threshold=evaluation.iou_threshold,
                max_detections=evaluation.max_detections,
            )
            in_source_pixels(found, geometry)
            after[name].append(1000 * (time.perf_counter() - start))
    return median(before), {name: median(values) for name, values in after.items()}


def _row(name: str, info: EngineInfo, result: EvalResult, times: Times, folder: Path) -> dict[str, Any]:
    """The comparison's keys for one engine; times carry three digits, more would be noise."""
    from yolov6core.engines.cpu import is_wrong_here
    from yolov6core.engines.latency import speedup

    latency = times.latency[name]
    files = [path for path in folder.iterdir() if path.name != "engine.json"]
    row = {
        "map50_95": result.stats["map50_95"],
        "map50": result.stats["map50"],
        "latency_ms": _digits(latency.median_ms, 3),
        "fps": _digits(1000 * times.images[name] / times.stream[name].median_ms, 3),
        "size_mb": round(sum(path.stat().st_size for path in files) / 1e6, 2),
        "int8_convs": info.int8_convs,
        "wrong_convs": info.overflowing_convs if is_wrong_here(info) else 0,
    }
    if "float" in times.latency:
        row["speedup"] = _digits(speedup(times.latency["float"], latency), 3)
    return row | {
        "latency_p90_ms": _digits(latency.p90_ms, 3),
        "latency_p99_ms": _digits(latency.p99_ms, 3),
        "pre_ms": _digits(times.pre_ms, 3),
        "post_ms": _digits(times.post_ms[name], 3),
    }


def _write_rounds(path: Path, times: Times) -> None:
    """The median of each round, to see how far they spread."""
    import pandas as pd

    rows = [
        {"variant": name, "round": number, "latency_ms": latency, "fps": 1000 * times.images[name] / stream}
        for name in times.latency
        for number, (latency, stream) in enumerate(
            zip(times.latency[name].rounds_ms, times.stream[name].rounds_ms, strict=True)
        )
    ]
    pd.DataFrame(rows).round(4).to_csv(path, index=False)


def _digits(value: float, count: int) -> float:
    return float(f"{value:.{count}g}")


def _warn(rows: dict[str, dict[str, Any]], infos: dict[str, EngineInfo]) -> None:
    """Say loudly what makes an INT8 engine pointless."""
    for name, row in rows.items():
        info = infos[name]
        if info.wanted_int8 and row.get("speedup", 2.0) <= 1:
            logger.warning(
                "%s IS NOT FASTER THAN FLOAT (%.3g times). %d of %d convolutions run in INT8 with %s, float layers: "
                "%s; 'python -m stages doctor' shows the CPU's INT8 instructions",
                name,
                row["speedup"],
                info.int8_convs,
                info.convs,
                info.runtime,
                ", ".join(info.float_layers) or "those that the file leaves float",
            )
        if 0 <= info.int8_convs < info.wanted_int8:
            logger.warning(
                "%s: FLOAT LAYERS THAT SHOULD BE INT8: %d; float layers: %s",
                name,
                info.wanted_int8 - info.int8_convs,
                ", ".join(info.float_layers),
            )
