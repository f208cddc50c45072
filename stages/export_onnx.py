"""`export-onnx`: every variant in the dialect of every runtime, each file run against the torch model it came from."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from stages._params import DEFAULT_PARAMS, Bounds, ParamsFile, RuntimeParams, read_params
from stages._report import StageError, logger, replace_folder, set_threads, stage_errors, write_json

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from torch import nn

    from yolov6core.engines.compare import Outputs
    from yolov6core.engines.dialects import Export

OUT = Path("artifacts/onnx")
WEIGHTS = {
    "float": Path("artifacts/train/weights.safetensors"),
    "ptq": Path("artifacts/ptq/weights.safetensors"),
    "partial": Path("artifacts/sensitivity/weights.safetensors"),
    "qat": Path("artifacts/qat/weights.safetensors"),
}
"""Variant -> its checkpoint."""
FP16_TOLERANCE = 0.02
"""Relative error of a float network in half precision (11 bits, some sixty layers)."""


@dataclass(frozen=True)
class ExportParams:
    """Section `export`: what the files look like, and how far they may be from torch."""

    opset: Literal[17, 18, 19, 20]
    dialects: list[Literal["openvino", "ort", "trt", "cache"]]
    dynamic_batch: bool
    fp16: bool
    check_images: Annotated[int, Bounds(1, 10_000)]
    tolerance: Annotated[float, Bounds(0, 1)]
    quant_tolerance: Annotated[float, Bounds(0, 100)]

    def __post_init__(self) -> None:
        if not self.dialects or len(set(self.dialects)) < len(self.dialects):
            raise ValueError(f"dialects is {self.dialects}; name at least one, each once")
        if self.fp16 and self.opset < 19 and "trt" in self.dialects:
            raise ValueError(f"fp16 needs opset 19 or 20, opset is {self.opset}")


def export_onnx_cli(params: ParamsFile = DEFAULT_PARAMS) -> None:
    """Write ONNX files of all variants and check them against torch: artifacts/onnx."""
    export, runtime = read_params(params, export=ExportParams, runtime=RuntimeParams)
    with stage_errors():
        export_onnx(export, runtime)


def export_onnx(export: ExportParams, runtime: RuntimeParams, *, out: Path = OUT) -> None:
    """Write `<variant>.<dialect>.onnx` (`.cache` beside dialect `cache`) and `check.json`.

    Raises:
        StageError: a checkpoint is missing, or a file is further from torch than the tolerances allow.
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
    from yolov6core.engines.dialects import GRID, write_traced
    from yolov6core.engines.onnx_export import to_onnx
    from yolov6core.quant.insert import quantizers_off, ready_for_export_, set_dialect_

    quantized = variant != "float"
    network, meta = load_quantized(weights) if quantized else load_float_model(weights)
    if quantized:
        ready_for_export_(network)
    decoded, images = _decoded(network, meta), _images(meta, export.check_images)
    with quantizers_off(network) if quantized else nullcontext():
        exact = _outputs(decoded, images)
    rows = {}
    traced: dict[str, onnx.ModelProto] = {}
    for dialect in export.dialects:
        if dialect == "cache" and not quantized:
            continue
        grid = GRID[dialect] if quantized else "float"
        if quantized:
            set_dialect_(network, grid)
        if grid not in traced:
            shape = (1, 3, *meta["image_size"])
            traced[grid] = to_onnx(decoded, input_shape=shape, dynamic_batch=export.dynamic_batch, opset=export.opset)
        path = folder / f"{variant}.{dialect}.onnx"
        written = write_traced(traced[grid], path, dialect=dialect, fp16=export.fp16 and dialect == "trt")
        # A cache's ONNX file is the float network; its scales stand beside it.
        rounds = quantized and dialect != "cache"
        wanted = _outputs(decoded, images) if rounds else exact
        rows[path.name] = _judge(_compare(written, images, wanted, exact if rounds else None), written, export)
        logger.info("%s", _line(path.name, rows[path.name]))
    return rows


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


def _images(meta: dict[str, Any], count: int) -> list[np.ndarray]:
    from stages._models import calibration_batches

    return [batch.contiguous().numpy() for batch in calibration_batches(meta, batch_size=1, images=count)]


def _outputs(module: nn.Module, images: list[np.ndarray]) -> list[Outputs]:
    from yolov6core.engines.torch_engine import run_module

    return [run_module(module, image) for image in images]


def _compare(
    written: Export, images: list[np.ndarray], wanted: list[Outputs], exact: list[Outputs] | None
) -> dict[str, Any]:
    """Differences of a file from torch over all images, and of torch's quantized model from its float self."""
    from yolov6core.engines.compare import compare_outputs
    from yolov6core.engines.registry import open_onnx

    run = open_onnx(written.path, written.dialect)
    row = {"dialect": written.dialect, "quantized_convs": written.quantized_convs, "convs": written.convs}
    row |= compare_outputs([run(image) for image in images], wanted)
    if exact is not None:
        row["quantization_l2"] = compare_outputs(wanted, exact)["relative_l2"]
    return row


def _judge(row: dict[str, Any], written: Export, export: ExportParams) -> dict[str, Any]:
    """Add what the row is allowed and whether it keeps to it.

    A quantized file cannot be asked for the last bit: a difference of 1e-6 flips a rounding, and flips multiply through
    the layers. Its distance from torch is therefore measured in units of what quantization itself changes.
    """
    allowed = max(export.tolerance, FP16_TOLERANCE if written.fp16 else 0.0)
    if "quantization_l2" in row:
        allowed += export.quant_tolerance * row["quantization_l2"]
    size = written.path.stat().st_size / 1e6
    return row | {"size_mb": round(size, 3), "allowed_l2": allowed, "ok": row["relative_l2"] <= allowed}


def _line(name: str, row: dict[str, Any]) -> str:
    noise = f", quantization itself {row['quantization_l2']:.2g}" if "quantization_l2" in row else ""
    return (
        f"{name:22} {row['size_mb']:6.1f} MB  {row['quantized_convs']:3d} of {row['convs']} convolutions quantized  "
        f"relative error {row['relative_l2']:.2g}{noise}"
    )


def _refuse_bad(rows: dict[str, dict[str, Any]]) -> None:
    bad = [
        f"{name}: relative error {row['relative_l2']:.3g}, allowed {row['allowed_l2']:.3g}"
        for name, row in rows.items()
        if not row["ok"]
    ]
    if bad:
        raise StageError(
            "exported files differ from torch; nothing was written\n  "
            + "\n  ".join(bad)
            + "\nraise export.tolerance or export.quant_tolerance if that is acceptable"
        )
