"""`export-onnx`: every variant in the dialect of every runtime, each file run against the torch model it came from."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from stages._params import DEFAULT_PARAMS, Bounds, ParamsFile, RuntimeParams, read_params
from stages._report import set_threads, stage_errors
from yolov6core.atomic import replace_folder, write_json
from yolov6core.errors import UserError, logger

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from torch import nn

    from yolov6core.engines.compare import Outputs
    from yolov6core.engines.interface import Interface
    from yolov6core.export.dialects import Export

OUT = Path("artifacts/onnx")
WEIGHTS = {
    "float": Path("artifacts/train/weights.safetensors"),
    "ptq": Path("artifacts/ptq/weights.safetensors"),
    "partial": Path("artifacts/sensitivity/weights.safetensors"),
    "qat": Path("artifacts/qat/weights.safetensors"),
}
"""Variant -> its checkpoint."""
CHECK_IMAGES = "check_images.npz"
FP16_TOLERANCE = 0.02
"""Relative error of a float network in half precision (11 bits, some sixty layers)."""
NMS_TOLERANCE = 0.01
"""Share of detections that suppression in the graph may choose otherwise: overlaps within rounding of the threshold."""


@dataclass(frozen=True)
class ExportParams:
    """Section `export`: what the files look like, and how far they may be from torch."""

    opset: Literal[17, 18, 19, 20]
    dialects: list[Literal["openvino", "ort", "trt", "cache"]]
    batch: Annotated[int, Bounds(1, 1024)]
    dynamic_batch: bool
    image_size: list[int] | None
    form: Literal["decoded", "raw"]
    nms: Literal["none", "topk", "onnx", "efficient_nms"]
    score_threshold: Annotated[float, Bounds(0, 1)]
    iou_threshold: Annotated[float, Bounds(0, 1)]
    max_detections: Annotated[int, Bounds(1, 1000)]
    input: Literal["float", "uint8"]
    simplify: bool
    fp16: bool
    check_images: Annotated[int, Bounds(1, 10_000)]
    tolerance: Annotated[float, Bounds(0, 1)]
    quant_tolerance: Annotated[float, Bounds(0, 100)]

    def __post_init__(self) -> None:
        if not self.dialects or len(set(self.dialects)) < len(self.dialects):
            raise ValueError(f"dialects is {self.dialects}; name at least one, each once")
        if self.fp16 and self.opset < 19 and "trt" in self.dialects:
            raise ValueError(f"fp16 needs opset 19 or 20, opset is {self.opset}")
        if self.dynamic_batch and self.batch != 1:
            raise ValueError(f"batch is {self.batch} and dynamic_batch true; a fixed batch needs dynamic_batch false")
        if self.image_size is not None and (len(self.image_size) != 2 or min(self.image_size) < 1):
            raise ValueError(f"image_size is {self.image_size}; give [height, width], or null for the training's")
        if self.form == "raw" and self.nms != "none":
            raise ValueError(f"nms {self.nms} suppresses decoded boxes; choose form decoded, or nms none")
        others = [name for name in self.dialects if name not in ("trt", "cache")]
        if self.nms == "efficient_nms" and others:
            raise ValueError(
                f"nms efficient_nms is a plugin of TensorRT, dialects has {', '.join(others)}; "
                "leave dialects [trt, cache], or choose nms onnx or topk"
            )


def export_onnx_cli(params: ParamsFile = DEFAULT_PARAMS) -> None:
    """Write ONNX files of all variants and check them against torch: artifacts/onnx."""
    export, runtime = read_params(params, export=ExportParams, runtime=RuntimeParams)
    with stage_errors():
        export_onnx(export, runtime)


def export_onnx(export: ExportParams, runtime: RuntimeParams, *, out: Path = OUT) -> None:
    """Write `<variant>.<dialect>.onnx` (`.cache` beside dialect `cache`), `check.json` and the images it is about.

    Files are judged by exact arithmetic, whatever the CPU at hand makes of them: that is `build-trt`'s to tell.

    Raises:
        UserError: a checkpoint is missing, or a file is further from torch than the tolerances allow.
    """
    set_threads(runtime.threads)
    rows: dict[str, dict[str, Any]] = {}
    with replace_folder(out) as folder:
        for variant, weights in WEIGHTS.items():
            rows |= _export_variant(variant, weights, export, folder)
        write_json(folder / "check.json", rows)
        # Inside, so that a bad file never stands where the next stage finds it.
        _refuse_bad(rows)
    logger.info("%d files -> %s", len(rows), out)


def _export_variant(variant: str, weights: Path, export: ExportParams, folder: Path) -> dict[str, dict[str, Any]]:
    """Write one variant in all dialects; returns a row of the report for each file."""
    from stages._models import load_float_model, load_quantized
    from yolov6core.export.dialects import grid_of, slow_in_int8, write_traced
    from yolov6core.quant.insert import quantizers_off, ready_for_export_, set_dialect_, set_float_layers_, state_of

    quantized = variant != "float"
    network, meta = load_quantized(weights) if quantized else load_float_model(weights)
    if quantized:
        floats = state_of(ready_for_export_(network)).float_layers
    meta |= {"image_size": _image_size(export, meta)}
    decoded, images = _decoded(network, meta), _images(meta, export)
    _keep(images, folder / CHECK_IMAGES)
    with quantizers_off(network) if quantized else nullcontext():
        exact = _outputs(decoded, images)
    rows = {}
    traced: dict[str, onnx.ModelProto] = {}
    for dialect in export.dialects:
        if dialect == "cache" and not quantized:
            continue
        grid = grid_of(dialect, nms=export.nms, dynamic_batch=export.dynamic_batch) if quantized else "float"
        if quantized:
            set_float_layers_(set_dialect_(network, grid), floats | slow_in_int8(network, dialect))
        if grid not in traced:
            traced[grid] = _trace(network if export.form == "raw" else decoded, meta, export)
        written = write_traced(
            traced[grid],
            folder / f"{variant}.{dialect}.onnx",
            dialect=dialect,
            fp16=export.fp16 and dialect == "trt",
            interface=_interface(export, meta),
            names=meta["names"],
            simplify=export.simplify,
        )
        # A cache's ONNX file is the float network; its scales stand beside it.
        rounds = quantized and dialect != "cache"
        wanted = _outputs(decoded, images) if rounds else exact
        row = _judge(_compare(written, images, wanted, exact if rounds else None), written, export)
        rows[written.path.name] = row
        logger.info("%s", _line(written.path.name, row))
    _tell_overflows(variant, rows)
    return rows


def _tell_overflows(variant: str, rows: dict[str, dict[str, Any]]) -> None:
    """Say which CPUs the files are not for."""
    on_cpu = (row for row in rows.values() if row["dialect"] in ("openvino", "ort"))
    counts = {row["dialect"]: row["overflowing_convs"] for row in on_cpu}
    if any(counts.values()):
        logger.info(
            "%s is for CPUs with exact sums (ptq.cpu): without VNNI, sums overflow in %s",
            variant,
            ", ".join(f"{count} convolutions of dialect {dialect}" for dialect, count in counts.items()),
        )


def _image_size(export: ExportParams, meta: dict[str, Any]) -> list[int]:
    size, stride = export.image_size or meta["image_size"], max(meta["model"]["strides"])
    if any(side % stride for side in size):
        raise UserError(f"export.image_size is {size}; both sides have to be multiples of {stride}")
    return size


def _interface(export: ExportParams, meta: dict[str, Any]) -> Interface:
    from stages._evaluation import grey_frame
    from yolov6core.engines.interface import Interface

    return Interface(
        form=export.form,
        nms=export.nms,
        input=export.input,
        strides=tuple(meta["model"]["strides"]) if export.form == "raw" else (),
        score_threshold=export.score_threshold,
        iou_threshold=export.iou_threshold,
        max_detections=export.max_detections,
        shrink=grey_frame(meta),
    )


def _trace(module: nn.Module, meta: dict[str, Any], export: ExportParams) -> onnx.ModelProto:
    from yolov6core.export.onnx_export import OUTPUTS, RAW_OUTPUTS, to_onnx

    return to_onnx(
        module,
        input_shape=(export.batch, 3, *meta["image_size"]),
        dynamic_batch=export.dynamic_batch,
        opset=export.opset,
        outputs=RAW_OUTPUTS if export.form == "raw" else OUTPUTS,
    )


def _decoded(network: nn.Module, meta: dict[str, Any]) -> nn.Module:
    """The network with the decoding of boxes and scores behind it, never quantized."""
    from torch import nn

    from yolov6core.models.head import decode

    class Decoded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: Any) -> Any:
            size, strides = tuple(meta["image_size"]), meta["model"]["strides"]
            return decode(*self.network(images), image_size=size, strides=strides)

    return Decoded().eval()


def _images(meta: dict[str, Any], export: ExportParams) -> list[np.ndarray]:
    """Batches [B, 3, H, W] of calibration images, the last one filled up with the first images."""
    import numpy as np

    from stages._models import calibration_batches

    loaded = calibration_batches(meta, batch_size=1, images=export.check_images)
    single = [batch.contiguous().numpy() for batch in loaded]
    starts = range(0, len(single), export.batch)
    return [np.concatenate([single[(start + i) % len(single)] for i in range(export.batch)]) for start in starts]


def _keep(images: list[np.ndarray], path: Path) -> None:
    """Store batches as pixels, uint8 [batches, B, 3, H, W]: `build-trt` runs its engines on them."""
    import numpy as np

    if not path.exists():
        np.savez_compressed(path, images=np.rint(255 * np.stack(images)).astype(np.uint8))


def _outputs(module: nn.Module, images: list[np.ndarray]) -> list[Outputs]:
    from yolov6core.engines.torch_engine import run_module

    return [run_module(module, image) for image in images]


def _compare(
    written: Export, images: list[np.ndarray], wanted: list[Outputs], exact: list[Outputs] | None
) -> dict[str, Any]:
    """Differences of a file from torch over all images, and of torch's quantized model from its float self."""
    import onnx

    from yolov6core.engines.compare import compare_outputs
    from yolov6core.engines.overflow import overflowing_convolutions
    from yolov6core.export.onnx_run import open_detector

    row: dict[str, Any] = {
        "dialect": written.dialect,
        "quantized_convs": written.quantized_convs,
        "convs": written.convs,
        "overflowing_convs": len(overflowing_convolutions(onnx.load(written.path))),
    }
    if written.interface.nms == "none":
        run = open_detector(written.path, written.dialect)
        row |= compare_outputs([run(image) for image in images], wanted)
    else:
        row |= _compare_suppressed(written, images, wanted)
    if exact is not None:
        row["quantization_l2"] = compare_outputs(wanted, exact)["relative_l2"]
    return row


def _compare_suppressed(written: Export, images: list[np.ndarray], wanted: list[Outputs]) -> dict[str, Any]:
    """The boxes before suppression against torch, and what the graph keeps of them against our own suppression."""
    import onnx

    from yolov6core.engines.compare import compare_outputs, detection_rows, differing_rows
    from yolov6core.evaluation.nms import nms
    from yolov6core.export.graph_nms import INNER, with_inner
    from yolov6core.export.onnx_run import open_outputs

    interface = written.interface
    run = open_outputs(with_inner(onnx.load(written.path)).SerializeToString(), written.dialect)
    results = [run(interface.feed(image)) for image in images]
    row = compare_outputs([tuple(result[name] for name in INNER) for result in results], wanted)
    if interface.nms == "efficient_nms":
        return row
    differ = count = 0
    for result in results:
        for image, (boxes, scores) in enumerate(zip(*(result[name] for name in INNER), strict=True)):
            rows = nms(
                boxes,
                interface.considered(scores),
                score_threshold=interface.score_threshold,
                iou_threshold=interface.iou_threshold,
                max_detections=interface.max_detections,
            )
            differ += differing_rows(detection_rows(result, image), rows)
            count += len(rows)
    return row | {"detections": count, "detections_differ": differ}


def _judge(row: dict[str, Any], written: Export, export: ExportParams) -> dict[str, Any]:
    """Add what the row is allowed and whether it keeps to it.

    A quantized file cannot be asked for the last bit: a difference of 1e-6 flips a rounding, and flips multiply through
    the layers. Its distance from torch is therefore measured in units of what quantization itself changes.
    """
    allowed = max(export.tolerance, FP16_TOLERANCE if written.fp16 else 0.0)
    if "quantization_l2" in row:
        allowed += export.quant_tolerance * row["quantization_l2"]
    size = written.path.stat().st_size / 1e6
    ok = row["relative_l2"] <= allowed and row.get("detections_differ", 0) <= NMS_TOLERANCE * row.get("detections", 0)
    return row | {"size_mb": round(size, 3), "allowed_l2": allowed, "ok": ok}


def _line(name: str, row: dict[str, Any]) -> str:
    noise = f", quantization itself {row['quantization_l2']:.2g}" if "quantization_l2" in row else ""
    return (
        f"{name:22} {row['size_mb']:6.1f} MB  {row['quantized_convs']:3d} of {row['convs']} convolutions quantized  "
        f"relative error {row['relative_l2']:.2g}{noise}"
    )


def _refuse_bad(rows: dict[str, dict[str, Any]]) -> None:
    bad = [
        f"{name}: relative error {row['relative_l2']:.3g}, allowed {row['allowed_l2']:.3g}"
        + (f"; {row['detections_differ']} of {row['detections']} detections differ" if "detections" in row else "")
        for name, row in rows.items()
        if not row["ok"]
    ]
    if bad:
        raise UserError(
            "exported files differ from torch; nothing was written\n  "
            + "\n  ".join(bad)
            + "\nraise export.tolerance or export.quant_tolerance if that is acceptable"
        )
