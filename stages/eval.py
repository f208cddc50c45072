"""`eval`: weights, ONNX files and engines on one split of the dataset, in one table (not a stage)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from stages.params import EngineParams, EvalParams, ModelParams, RuntimeParams
from stages.shared import paths
from stages.shared.limits import limits_of
from stages.shared.shell import required
from yolov6core.base.errors import UserError, logger
from yolov6core.base.own_files import refuse_taken, write_new
from yolov6core.base.threads import compute_device, set_threads
from yolov6core.data.dataset import DetectionDataset
from yolov6core.engines.complaints import unsuitable_cpu
from yolov6core.engines.runtime import BuildSettings, Engine
from yolov6core.int8.torch_networks import WEIGHT_SUFFIXES, open_weights
from yolov6core.serving.engine_evaluation import evaluate_engine
from yolov6core.serving.engine_table import (
    BATCHES,
    batch_times,
    csv_table,
    refuse_other_classes,
    table_rows,
    told_table,
)
from yolov6core.serving.open_engine import open_any


def compare(
    models: Sequence[Path],
    model: ModelParams,
    engine: EngineParams,
    evaluation: EvalParams,
    runtime: RuntimeParams,
    *,
    split: str = "val",
    runtimes: Sequence[str] = ("auto",),
    out: Path | None = None,
) -> str:
    """Evaluate models and time them in turns.

    Args:
        models: weights, which torch runs; ONNX files, which each of `runtimes` runs; folders of engines.
        split: `val`, `select`, `calib` or `train`.
        out: a new file for the table as CSV.

    Returns: the table as text.

    Raises:
        UserError: a model cannot be opened here or has other classes than the dataset, or `out` is there already.
    """
    if split not in paths.SPLITS:
        raise UserError(f"--split {split} is unknown; choose one of {', '.join(paths.SPLITS)}")
    if out is not None:
        refuse_taken(out, sources=tuple(models))
        if out.exists():  # times never are the same again
            raise UserError(f"--out {out} exists, and no table is overwritten; move it away, or give another name")
    set_threads(runtime.threads)
    dataset = DetectionDataset(required(paths.DATASET, made_by="prepare-voc2yolo"), split)
    engines = dict(_opened(models, model, engine, runtime, runtimes))
    refuse_other_classes(engines, dataset.names)
    results = {}
    for name, opened in engines.items():
        logger.info("%s: %s", name, opened.info.describe())
        if text := unsuitable_cpu(opened.info):
            logger.warning("%s: %s", name, text)
        results[name] = evaluate_engine(opened, dataset, limits=limits_of(evaluation), batch_size=evaluation.batch_size)
    times = batch_times(engines, rounds=evaluation.rounds, repeats=evaluation.repeats)
    if missing := [name for name, own in times.items() if BATCHES[-1] not in own]:
        logger.info("no speed at batch %d of %s: export.dynamic_batch=true opens it", BATCHES[-1], ", ".join(missing))
    rows = table_rows(engines, results, times)
    if out is not None:
        write_new(out, csv_table(rows).encode())
    return told_table(rows)


def _opened(
    models: Sequence[Path], model: ModelParams, engine: EngineParams, runtime: RuntimeParams, runtimes: Sequence[str]
) -> Iterator[tuple[str, Engine]]:
    """Name -> engine, for each model in the order given; an ONNX file once for each runtime."""
    most = max(*BATCHES, engine.max_batch)
    settings = BuildSettings(threads=engine.threads, hint=engine.hint, precision=engine.precision, max_batch=most)
    for path in models:
        if path.suffix in WEIGHT_SUFFIXES:
            opened = open_weights(
                path,
                variant=model.variant,
                image_size=model.size,
                shrink=model.shrink,
                max_batch=most,
                device=compute_device(runtime.device),
            )
            yield str(path), opened
        elif path.suffix == ".onnx":
            for name in runtimes:
                title = f"{path} ({name})" if len(runtimes) > 1 else str(path)
                yield title, open_any(path, name, settings=settings, option="")
        else:
            yield str(path), open_any(path, option="")
