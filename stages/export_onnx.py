"""`export-onnx`: every model in the dialect of every runtime, each file run against the network it came from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from stages.params import ExportParams, RuntimeParams
from stages.shared import paths
from stages.shared.shell import required
from stages.shared.start_line import log_start
from yolov6core.base.atomic import replace_folder, write_json
from yolov6core.base.errors import UserError, brief, logger
from yolov6core.base.progress import tracked
from yolov6core.base.threads import describe_device, set_threads
from yolov6core.data.dataset import DetectionDataset
from yolov6core.data.views import image_batches
from yolov6core.engines.onnx_facts import other_integers
from yolov6core.engines.registry import dialect_of
from yolov6core.engines.runtime import RuntimeMissing
from yolov6core.exchange.compare import Outputs
from yolov6core.export.check import Tolerance, check_file, complaint, describe
from yolov6core.export.dialects import grid_of, write_traced
from yolov6core.export.file_form import FileForm
from yolov6core.export.grids import CACHE_OPSET
from yolov6core.export.library_quantization import quantized_by_library
from yolov6core.export.onnx_run import open_outputs
from yolov6core.export.tracer import Tracer
from yolov6core.int8.quantized_networks import load_quantized
from yolov6core.models.card import NetworkCard
from yolov6core.models.decoded import DecodedNetwork, run_module
from yolov6core.quant.insert import QuantizedModel, quantizers_off, ready_for_export_
from yolov6core.tasks.networks import load_float, read_network

if TYPE_CHECKING:
    import onnx

Rows = dict[str, dict[str, Any]]
"""File name -> its row in the report."""


def export_onnx(
    export: ExportParams, runtime: RuntimeParams, *, engine_runtime: str = "auto", out: Path = paths.ONNX
) -> None:
    """Write `<kind>.<dialect>.onnx` (`<kind>.cache` beside dialect `cache`), `check.json` and the images it is about.

    Files are judged by exact arithmetic, whatever the CPU at hand makes of them: `build-trt` judges the engines.

    Raises:
        UserError: a checkpoint is missing, or a file is further from torch than the tolerances allow.
    """
    set_threads(runtime.threads)
    log_start("export-onnx", "torch", "onnx", "onnxruntime", device=describe_device("cpu"))
    rows: Rows = {}
    with replace_folder(out) as folder:
        for kind, weights in tracked(paths.WEIGHTS.items(), "models", unit="models"):
            rows |= _export_kind(kind, required(weights, made_by=paths.MADE_BY[kind]), export, folder)
        if export.naive:
            rows |= _export_naive(export, folder)
        write_json(folder / paths.CHECK_REPORT, rows)
        _warn_of_grids(folder, engine_runtime)
        # Inside, so that a bad file never stands where the next stage finds it.
        _refuse_bad(rows)
    logger.info("%d files -> %s", len(rows), out)


@dataclass(frozen=True)
class Source:
    """A network to export.

    Attributes:
        tracer: the network, raw and decoded, and its traces.
        images: batches that files are compared on.
        exact: outputs without quantization.
    """

    card: NetworkCard
    tracer: Tracer
    images: list[np.ndarray]
    exact: list[Outputs]


def _export_kind(kind: str, weights: Path, export: ExportParams, folder: Path) -> Rows:
    """Write one kind of model in all dialects; returns a row of the report for each file."""
    if kind == "float":
        network, card = load_float(weights)
    else:
        network, card = load_quantized(weights)
        ready_for_export_(network)
    source = _source(network, card, export, weights)
    _keep_images(source.images, folder / paths.CHECK_IMAGES)
    rows: Rows = {}
    for dialect in tracked(export.dialects, kind, unit="files"):
        if dialect == "cache" and kind == "float":
            continue
        opset = min(export.opset, CACHE_OPSET) if dialect == "cache" else export.opset
        traced = source.tracer.trace(dialect, opset)
        # The ONNX file of a cache is the float network; its scales stand beside it.
        rounds = kind != "float" and dialect != "cache"
        rounded = _outputs(source.tracer.decoded, source.images) if rounds else None
        name = f"{kind}.{dialect}.onnx"
        rows[name] = _write_and_check(traced, folder / name, dialect, source, export, rounded)
    _log_overflows(kind, rows)
    return rows


def _export_naive(export: ExportParams, folder: Path) -> Rows:
    """Write the float network as ONNX Runtime's tool quantizes it; files are compared with what it computes itself.

    A difference is told and stops nothing: predictions of 8 bits tie, and suppression may choose otherwise.
    """
    weights = paths.WEIGHTS["float"]
    network, card = load_float(weights)
    source = _source(network, card, export, weights)
    _, ptq = read_network(paths.WEIGHTS["ptq"])
    saturating = ptq.quantization is not None and ptq.quantization.cpu == "saturating"
    traces = {form: source.tracer.trace("ort", export.opset, form=form) for form in ("decoded", export.form)}
    rows: Rows = {}
    for dialect in export.dialects:
        if dialect == "cache":
            continue
        grid = grid_of(dialect, nms=export.nms, dynamic_batch=export.dynamic_batch)
        how = {"symmetric": grid in ("trt", "openvino_signed"), "reduce_range": saturating and dialect != "trt"}
        try:
            models = {f: quantized_by_library(t, _images(source.card, export), **how) for f, t in traces.items()}
            run = open_outputs(models["decoded"].SerializeToString(), "ort")
            rounded = [(found["boxes"], found["scores"]) for found in map(run, source.images)]
        except Exception as error:  # what the tool and its runtime raise has no common base class
            raise UserError(f"ONNX Runtime's tool fails ({brief(error)}); set export.naive to false") from error
        name = f"naive.{dialect}.onnx"
        row = _write_and_check(models[export.form], folder / name, dialect, source, export, rounded)
        if not row["ok"]:
            logger.warning("%s", complaint(name, row))
        rows[name] = row | {"ok": True}
    return rows


def _source(network: nn.Module, card: NetworkCard, export: ExportParams, weights: Path) -> Source:
    files = FileForm.of(export.model_dump())
    card = replace(card, image_size=files.input_size(card.image_size, card.strides))
    decoded = DecodedNetwork(network, strides=card.strides, image_size=card.image_size).eval()
    tracer = Tracer(network, decoded, files, image_size=card.image_size, weights=weights)
    images = list(_images(card, export, limit=export.check_images))
    with quantizers_off(network) if isinstance(network, QuantizedModel) else nullcontext():
        return Source(card, tracer, images, _outputs(decoded, images))


def _images(card: NetworkCard, export: ExportParams, *, limit: int | None = None) -> Iterator[np.ndarray]:
    """Batches [B, 3, H, W] of calibration images, the last one filled up with the first images."""
    dataset = DetectionDataset(paths.DATASET, "calib", limit=limit)
    loaded = image_batches(dataset, image_size=card.image_size, shrink=card.shrink, batch_size=export.batch)
    first = None
    for batch in loaded:
        images = batch.contiguous().numpy()
        first = images if first is None else first
        missing = export.batch - len(images)
        yield np.concatenate([images, first[np.arange(missing) % len(first)]]) if missing else images


def _keep_images(images: list[np.ndarray], path: Path) -> None:
    """Store batches as pixels, uint8 [batches, B, 3, H, W]: `build-trt` runs its engines on them."""
    if not path.exists():
        np.savez_compressed(path, images=np.rint(255 * np.stack(images)).astype(np.uint8))


def _outputs(module: nn.Module, images: list[np.ndarray]) -> list[Outputs]:
    return [run_module(module, image) for image in images]


def _write_and_check(
    traced: onnx.ModelProto,
    path: Path,
    dialect: str,
    source: Source,
    export: ExportParams,
    rounded: list[Outputs] | None,
) -> dict[str, Any]:
    """`rounded`: outputs of the quantized network; None for files that do not round."""
    card = source.card
    written = write_traced(
        traced,
        path,
        dialect=dialect,
        fp16=export.fp16 and dialect == "trt",
        interface=source.tracer.files.interface(card.strides, card.shrink),
        names=card.names,
        simplify=export.simplify,
    )
    wanted, exact = (source.exact, None) if rounded is None else (rounded, source.exact)
    row = check_file(written, source.images, wanted, exact, Tolerance(export.tolerance, export.quant_tolerance))
    logger.info("%s", describe(path.name, row))
    return row


def _log_overflows(kind: str, rows: Rows) -> None:
    """Say which CPUs the files are not for."""
    on_cpu = (row for row in rows.values() if row["dialect"] in ("openvino", "ort"))
    counts = {row["dialect"]: row["overflowing_convs"] for row in on_cpu}
    if any(counts.values()):
        logger.info(
            "%s is for CPUs with exact sums (ptq.cpu): without VNNI, sums overflow in %s",
            kind,
            ", ".join(f"{count} convolutions of dialect {dialect}" for dialect, count in counts.items()),
        )


def _warn_of_grids(folder: Path, engine_runtime: str) -> None:
    """Say loudly which files of the runtime in use round to integers that their network was not judged on."""
    try:
        dialect = dialect_of(engine_runtime)
    except RuntimeMissing:  # build-trt says so
        return
    for file in sorted(folder.glob(f"*.{dialect}.onnx")):
        if text := other_integers(file):
            logger.warning("%s: %s", file.name, text)


def _refuse_bad(rows: Rows) -> None:
    bad = [complaint(name, row) for name, row in rows.items() if not row["ok"]]
    if bad:
        raise UserError(
            "exported files differ from torch; nothing was written\n  "
            + "\n  ".join(bad)
            + "\nraise export.tolerance or export.quant_tolerance if that is acceptable"
        )
