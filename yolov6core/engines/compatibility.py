"""The files that each runtime computes correctly, and the reasons against the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yolov6core.exchange.calibration_cache import FIRST_VERSION, LAST_VERSION
from yolov6core.exchange.graph_view import integer_types
from yolov6core.exchange.interface import Interface
from yolov6core.exchange.onnx_notes import get_note

if TYPE_CHECKING:
    import onnx

RUNTIME_DIALECT = {"openvino": "openvino", "onnxruntime": "ort", "tensorrt": "trt", "tensorrt_rtx": "trt"}
"""Runtime -> the dialect it is built from."""
WHY = {
    "openvino": "OpenVINO computes wrong numbers for int8 Q/DQ through a Concat; it needs FakeQuantize",
    "onnxruntime": "ONNX Runtime forms integer convolutions only from uint8 Q/DQ on every activation",
    "tensorrt": "TensorRT takes symmetric int8 only; uint8 values above 127 would saturate silently",
    "tensorrt_rtx": "TensorRT-RTX takes symmetric int8 only; uint8 values above 127 would saturate silently",
}
NMS_REFUSED = {
    ("efficient_nms", "tensorrt_rtx"): "TensorRT-RTX has no plugins; export nms 'topk'",
    ("efficient_nms", "openvino"): "EfficientNMS_TRT is a plugin of TensorRT; export nms 'onnx' or 'topk'",
    ("efficient_nms", "onnxruntime"): "EfficientNMS_TRT is a plugin of TensorRT; export nms 'onnx' or 'topk'",
    ("onnx", "tensorrt"): "its number of boxes is not known before a run; export nms 'topk' or 'efficient_nms'",
    ("onnx", "tensorrt_rtx"): "TensorRT-RTX has no kernel for NonMaxSuppression; export nms 'topk'",
}


TENSORRT_8_OPSET = 17
"""Last opset of the parser of TensorRT 8.6. Its Q/DQ take float32 scales only, and its constants cannot be int8."""


def check_combination(model: onnx.ModelProto, runtime: str, *, version: str | None = None) -> None:
    """Refuse a file that `runtime` would compute incorrectly or slower than float.

    Args:
        model: as written by `write_dialect`, or any ONNX model.
        runtime: key of RUNTIME_DIALECT.
        version: the runtime's version, where it matters (TensorRT 8, calibration caches).

    Raises:
        ValueError: the file does not fit; the message names a form that does.
    """
    wanted = RUNTIME_DIALECT[runtime]
    refusal = NMS_REFUSED.get((Interface.of(model).nms, runtime))
    if refusal:
        raise ValueError(f"the file has suppression in the graph that {runtime} cannot run: {refusal}")
    if runtime == "tensorrt" and (version or "").startswith("8."):
        _check_tensorrt_8(model, version or "")
    kinds, dialect = integer_types(model), get_note(model, "dialect")
    if dialect == "cache":
        major = int((version or "0").split(".")[0])
        if runtime != "tensorrt" or not FIRST_VERSION <= major <= LAST_VERSION:
            raise ValueError(
                f"a calibration cache is read by TensorRT {FIRST_VERSION} to {LAST_VERSION} only, "
                f"this is {runtime} {version or ''}: export dialect {wanted!r}"
            )
        return
    allowed = {"openvino": {"fake"}, "ort": {"uint8"}, "trt": {"int8"}}[wanted]
    if kinds - allowed:
        found = ", ".join(sorted(kinds - allowed))
        raise ValueError(f"{WHY[runtime]}; the file (dialect {dialect or 'unknown'!r}) has {found}: export {wanted!r}")
    if get_note(model, "precision") == "fp16" and wanted != "trt":
        raise ValueError(f"the file holds float16 for TensorRT; export dialect {wanted!r} for {runtime}")


def _check_tensorrt_8(model: onnx.ModelProto, version: str) -> None:
    """Refuse what the parser of TensorRT 8 does not read."""
    from onnx import TensorProto

    opset = next((item.version for item in model.opset_import if item.domain == ""), 0)
    scales = {node.input[1] for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
    half = sum(tensor.name in scales and tensor.data_type != TensorProto.FLOAT for tensor in model.graph.initializer)
    dequantized = {node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    integers = sum(tensor.name in dequantized for tensor in model.graph.initializer)
    if opset <= TENSORRT_8_OPSET and not half and not integers:
        return
    found = f"opset {opset}"
    found += f", {half} FP16 scales" if half else ""
    found += f", {integers} weights of type int8" if integers else ""
    other = ", or build from the calibration cache: engine.calibration_cache=true" if scales else ""
    raise ValueError(
        f"TensorRT {version} reads ONNX up to opset {TENSORRT_8_OPSET}, Q/DQ with float32 scales, and weights of type "
        f"float32; the file has {found}: export it again with export.fp16=false "
        f"export.opset={TENSORRT_8_OPSET}{other}"
    )
