"""One quantized network as several files: each runtime needs the same scales in another form to be fast and correct."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from yolov6core.base.errors import UserError
from yolov6core.engines.compatibility import TENSORRT_8_OPSET
from yolov6core.exchange.calibration_cache import cache_path, write_cache
from yolov6core.exchange.graph_view import convolutions, count_quantized, integer_types
from yolov6core.exchange.interface import PLAIN, Interface
from yolov6core.exchange.onnx_notes import INPUT, QUANTIZED, get_note, set_note
from yolov6core.export.fp16 import to_fp16
from yolov6core.export.graph_ends import cut_maps, take_pixels
from yolov6core.export.graph_nms import add_nms
from yolov6core.export.onnx_export import save_onnx, to_onnx
from yolov6core.export.onnx_graph import simplified
from yolov6core.export.qdq import (
    clip_integers,
    fold_weights,
    merge_pairs,
    quantize_biases,
    strip_pairs,
    to_fake_quantize,
    unfold_weights,
)
from yolov6core.export.shuffles import blocks_first, fuse_silu, shuffle_integers
from yolov6core.quant.graph_ops import quant_conv
from yolov6core.quant.insert import QuantizedModel, convolution_names

if TYPE_CHECKING:
    import onnx

DIALECTS = ("openvino", "ort", "trt", "cache", "qdq")
GRID = {"openvino": "openvino", "ort": "ort", "trt": "trt", "cache": "trt", "qdq": "qdq"}
"""Dialect of the file -> quantization dialect of the torch model that is traced (see `grid_of`)."""
QDQ_GRID = {"uint8": "qdq", "int8": "qdq_signed"}
"""Integers of the activations -> quantization dialect, for files of dialect 'qdq'."""
NMS_DIALECTS = {
    "none": DIALECTS,
    "topk": DIALECTS,
    "onnx": ("openvino", "ort", "qdq"),
    "efficient_nms": ("trt", "cache"),
}
"""Form of non-maximum suppression -> dialects that support it."""


def grid_of(dialect: str, *, nms: str = "none", dynamic_batch: bool = False, activations: str = "uint8") -> str:
    """Quantization dialect (key of `quant.spec.DIALECTS`) of the torch model that is traced for a file.

    Args:
        activations: key of QDQ_GRID, for dialect 'qdq'.

    OpenVINO 2026.4 computes wrong numbers on the unsigned grid if the batch is open and suppression is in the graph. It
    is correct on the signed grid.
    """
    if dialect == "qdq":
        return QDQ_GRID[activations]
    return "openvino_signed" if dialect == "openvino" and dynamic_batch and nms != "none" else GRID[dialect]


def slow_in_int8(gm: QuantizedModel, dialect: str) -> frozenset[str]:
    """Convolutions that run faster in float than in INT8.

    In ONNX Runtime these are convolutions of at most three channels: the stem of YOLOv6-N at 640 pixels takes 1.2 ms in
    INT8 and 0.7 ms in float.
    """
    if dialect != "ort":
        return frozenset()
    return frozenset(name for name in convolution_names(gm) if quant_conv(gm, name).in_channels <= 3)


@dataclass(frozen=True)
class Export:
    """A written file, its dialect, and the numbers of its quantized and of all convolutions."""

    path: Path
    dialect: str
    fp16: bool
    quantized_convs: int
    convs: int
    interface: Interface = PLAIN
    cache: Path | None = None


def write_dialect(
    module: nn.Module,
    path: Path,
    *,
    dialect: str,
    input_shape: tuple[int, int, int, int],
    dynamic_batch: bool = False,
    opset: int = 17,
    fp16: bool = False,
) -> Export:
    """Trace a module and write it for one kind of runtime: `to_onnx`, then `write_traced`, with the errors of both."""
    traced = to_onnx(module, input_shape=input_shape, dynamic_batch=dynamic_batch, opset=opset)
    return write_traced(traced, path, dialect=dialect, fp16=fp16)


def write_traced(
    traced: onnx.ModelProto,
    path: Path,
    *,
    dialect: str,
    fp16: bool = False,
    interface: Interface = PLAIN,
    names: Sequence[str] = (),
    simplify: bool = False,
) -> Export:
    """Write a traced network for one kind of runtime.

    Args:
        traced: result of `to_onnx` for a float model or a quantized one in dialect GRID[dialect]; stays unchanged. For
            form 'raw' its outputs are RAW_OUTPUTS.
        path: the .onnx file; dialect 'cache' writes the scales beside it (see `cache_path`). Files of dialect 'trt' of
            opset 17 are for TensorRT 8, too: their weights are float32 in front of Q/DQ, as it needs them.
        fp16: half precision for all operators that are not INT8; dialect 'trt' only, opset 19 or 20.
        interface: inputs and outputs of the file.
        names: of the classes, stored in the file for engines and detections.
        simplify: run onnxsim on the result.

    Raises:
        ValueError: unknown dialect, or a combination that no runtime supports.
        UserError: onnxsim is asked for and missing, or fails.
    """
    check_export(dialect, interface, fp16=fp16)
    model = type(traced).FromString(traced.SerializeToString())
    if interface.form == "raw":
        cut_maps(model, interface.strides)
    blocks_first(model)
    merge_pairs(model)
    _check_grid(model, dialect)
    scales: dict[str, float] = {}
    if dialect == "cache":
        if not get_note(model, QUANTIZED):
            set_note(model, QUANTIZED, json.dumps([name for name, meant in convolutions(model).items() if meant]))
        scales = strip_pairs(model)
    else:
        model = _rewrite(model, dialect, fp16)
    quantized, convs = count_quantized(model)
    if interface.nms != "none":
        interface = add_nms(model, interface)
    if interface.input == "uint8":
        inner = take_pixels(model)
        scales = {inner if name == INPUT else name: scale for name, scale in scales.items()}
    precision = "fp16" if fp16 else "fp32"
    _set_notes(model, {"dialect": dialect, "precision": precision, **interface.notes()}, names)
    if simplify:
        model = _simplified(model)
    if dialect == "trt" and _opset(model) <= TENSORRT_8_OPSET:
        unfold_weights(model)  # behind onnxsim, which would fold them again
    _check_model(model)
    save_onnx(model, path)
    cache = cache_path(path) if dialect == "cache" else None
    if cache is not None:
        cache.write_text(write_cache(scales), encoding="utf-8")
    return Export(path, dialect, fp16, quantized, convs, interface, cache)


def _set_notes(model: onnx.ModelProto, notes: dict[str, str], names: Sequence[str]) -> None:
    for key, value in notes.items():
        set_note(model, key, value)
    if names:
        set_note(model, "names", json.dumps(list(names)))


def check_export(dialect: str, interface: Interface, *, fp16: bool = False) -> None:
    """Raise ValueError for a combination that no runtime supports."""
    if dialect not in DIALECTS:
        raise ValueError(f"dialect {dialect!r} is unknown; choose one of {', '.join(DIALECTS)}")
    if fp16 and dialect != "trt":
        raise ValueError(
            f"fp16 is for dialect 'trt'; {dialect!r} takes float32, and its runtime chooses other precisions"
        )
    nms = interface.nms
    if dialect not in NMS_DIALECTS[nms]:
        fits = ", ".join(NMS_DIALECTS[nms])
        raise ValueError(f"nms {nms!r} is for the dialects {fits}, not {dialect!r}; nms 'topk' is for all")


def _rewrite(model: onnx.ModelProto, dialect: str, fp16: bool) -> onnx.ModelProto:
    fold_weights(model)
    if dialect == "ort":
        quantize_biases(model)
        clip_integers(model)
        shuffle_integers(model)
        if integer_types(model):
            fuse_silu(model)
    if dialect == "openvino":
        to_fake_quantize(model)
    if dialect == "qdq" and "uint8" in integer_types(model):
        quantize_biases(model)  # with symmetric int8 they stay float: TensorRT refuses int32 constants
    return to_fp16(model) if fp16 else model


def _opset(model: onnx.ModelProto) -> int:
    return next(item.version for item in model.opset_import if item.domain == "")


def _check_grid(model: onnx.ModelProto, dialect: str) -> None:
    kinds = integer_types(model)
    if dialect == "ort" and "int8" in kinds:
        raise ValueError(
            "dialect 'ort' needs uint8 activations, the model is on the int8 grid: set_dialect_(..., 'ort')"
        )
    if dialect in ("trt", "cache") and "uint8" in kinds:
        raise ValueError(
            f"dialect {dialect!r} needs int8 activations, the model is on a uint8 grid: set_dialect_(..., 'trt')"
        )
    if dialect == "qdq" and len(kinds) > 1:
        raise ValueError(
            "dialect 'qdq' has one integer type; the model has both: set_dialect_(..., 'qdq' or 'qdq_signed')"
        )
    if dialect == "cache" and not kinds:
        raise ValueError("dialect 'cache' needs a quantized model; a float model has no scales")


def _check_model(model: onnx.ModelProto) -> None:
    import onnx

    # Shape inference does not know FakeQuantize and plugins: the full check works for standard operators only.
    standard = all(node.domain == "" for node in model.graph.node)
    onnx.checker.check_model(model, full_check=standard)


def _simplified(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return simplified(model)
    except ValueError as error:
        raise UserError(f"export.simplify: {error}") from None
