"""Look-ups and counts over ONNX graphs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from yolov6core.exchange.calibration_cache import cache_path
from yolov6core.exchange.graph_view import convolutions, count_quantized, integer_types
from yolov6core.exchange.onnx_notes import QUANTIZED, set_note
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


def test_names_of_other_programs_do_not_change_counts(toy_net):
    """Names of nodes need not be unique, and notes may hold anything."""
    model = to_onnx(toy_net("trt"), input_shape=SHAPE)
    for node in model.graph.node:
        node.name = "same"
    assert count_quantized(model) == (6, 9)
    for node in model.graph.node:
        node.name = ""
    for text in ("true", "[1, {}]", "no JSON", '{"a": 1}'):
        set_note(model, QUANTIZED, text)
        assert count_quantized(model) == (6, 9)
    set_note(model, QUANTIZED, json.dumps(list(convolutions(model))))
    assert count_quantized(model) == (9, 9)


@pytest.mark.parametrize(("name", "cache"), [("ptq.cache.onnx", "ptq.cache"), ("model.onnx", "model.cache")])
def test_a_cache_stands_beside_its_file_with_one_suffix(name, cache):
    assert cache_path(Path("a.b") / name) == Path("a.b") / cache
