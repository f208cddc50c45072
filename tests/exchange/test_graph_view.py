"""Look-ups and counts over ONNX graphs."""

from __future__ import annotations

from yolov6core.exchange.graph_view import count_quantized, integer_types
from yolov6core.export import qdq
from yolov6core.export.onnx_export import to_onnx

SHAPE = (1, 3, 32, 32)


def test_integer_types_and_counts(toy_net):
    assert integer_types(to_onnx(toy_net("ort"), input_shape=SHAPE)) == {"uint8"}
    model = to_onnx(toy_net("trt"), input_shape=SHAPE)
    assert integer_types(model) == {"int8"}
    assert count_quantized(model) == (6, 9)
    assert qdq.to_fake_quantize(model) == 5
    assert integer_types(model) == {"fake"}
