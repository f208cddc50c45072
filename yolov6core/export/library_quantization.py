"""INT8 as ONNX Runtime's own tool makes it: what users have without this project, on the same images and graph."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from yolov6core.exchange.graph_view import GraphView
from yolov6core.exchange.onnx_notes import INPUT

if TYPE_CHECKING:
    import onnx


def quantized_by_library(
    traced: onnx.ModelProto, images: Iterable[np.ndarray], *, symmetric: bool, reduce_range: bool = False
) -> onnx.ModelProto:
    """Quantize a float graph by `onnxruntime.quantization.quantize_static` with its defaults.

    These are one scale a weight tensor, activations between the smallest and largest value seen, and every operator
    that has integers, the prediction layers too. Only the decoding behind the last convolutions stays float: boxes of 8
    bits would have steps of 2.5 pixels at 640.

    Args:
        traced: result of `to_onnx` for a float network; stays unchanged.
        images: calibration batches [B, 3, H, W] float32 in 0..1.
        symmetric: int8 activations without zero points, which TensorRT needs; else uint8 ones, as the tool's
            documentation has them for CPUs.
        reduce_range: 7-bit weights, which it gives for CPUs whose sums saturate.

    Returns: a graph for `write_traced`, which rewrites it for a runtime.

    Raises:
        ValueError: no images.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_static

    with tempfile.TemporaryDirectory() as folder, _quiet():
        target = Path(folder) / "quantized.onnx"
        quantize_static(
            _copy(traced),
            target,
            _reader(images),
            activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            reduce_range=reduce_range,
            nodes_to_exclude=_decoding(traced),
            # Dialects that need integer biases get them from `write_traced`.
            extra_options={"ActivationSymmetric": symmetric, "QuantizeBias": False},
        )
        quantized = onnx.shape_inference.infer_shapes(onnx.load(target), data_prop=True)
    del quantized.metadata_props[:]
    quantized.producer_name, quantized.producer_version = traced.producer_name, ""
    return quantized


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    return type(model).FromString(model.SerializeToString())


def _reader(images: Iterable[np.ndarray]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._batches = iter(images)

        def get_next(self) -> Any:
            """The next batch by the input's name; None at the end."""
            batch = next(self._batches, None)
            return None if batch is None else {INPUT: batch}

    return Reader()


def _decoding(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes that no convolution depends on, but convolutions themselves."""
    view = GraphView(model)
    pending = [node for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose")]
    before = set()
    while pending:
        node = pending.pop()
        if node.output[0] not in before:
            before.add(node.output[0])
            pending += [view.producer[name] for name in node.input if name in view.producer]
    return [node.name for node in model.graph.node if node.output[0] not in before]


@contextmanager
def _quiet() -> Iterator[None]:
    """Its warnings, through the root logger, ask for an optimized file: `to_onnx` has folded what there is to fold."""
    root, level = logging.getLogger(), logging.getLogger().level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
