"""Calibration caches of every family: TensorRT runs in INT8 only what has a scale on both sides."""

import json

import onnx
import pytest
import torch

from tests.support import families
from yolov6core.exchange.calibration_cache import read_cache
from yolov6core.exchange.graph_view import GraphView, convolutions
from yolov6core.exchange.onnx_notes import QUANTIZED, get_note
from yolov6core.export.dialects import write_traced
from yolov6core.export.grids import CACHE_GRID, CACHE_OPSET, choose_grid_, note_quantized, other_grid
from yolov6core.export.onnx_export import to_onnx
from yolov6core.models.decoded import DecodedNetwork
from yolov6core.quant.calibrate import collect, ranges
from yolov6core.quant.insert import (
    get_ranges,
    insert_quantizers,
    quantizable_names,
    ready_for_export_,
    set_ranges_,
    state_of,
)
from yolov6core.quant.observers import Method

PASSES = ("Add", "Clip", "HardSigmoid", "HardSwish", "Mul", "Relu", "Sigmoid")
"""What stands behind a convolution before its result goes on."""


def calibrated(name):
    network, strides = families.float_network(name)
    gm = insert_quantizers(network.eval())
    set_ranges_(gm, ranges(collect(gm, [torch.from_numpy(families.pixels(2))]), Method("max")))
    return ready_for_export_(gm), strides


def traced(gm, strides):
    decoded = DecodedNetwork(gm, strides=strides, image_size=families.IMAGE).eval()
    return to_onnx(decoded, input_shape=(1, 3, *families.IMAGE), opset=CACHE_OPSET)


@pytest.mark.parametrize("name", families.FAMILIES)
def test_every_convolution_has_a_scale_on_both_sides(tmp_path, name):
    gm, strides = calibrated(name)
    kept = quantizable_names(gm)[2]
    floats = state_of(gm).float_layers | {kept}
    assert choose_grid_(gm, "cache", floats) == CACHE_GRID
    trace = traced(gm, strides)
    note_quantized(trace, gm, floats)
    export = write_traced(trace, tmp_path / "model.cache.onnx", dialect="cache")
    assert export.cache == tmp_path / "model.cache"
    model, scales = onnx.load(export.path), read_cache(export.cache.read_text())
    meant, readers = convolutions(model), GraphView(model).readers
    assert (export.quantized_convs, export.convs) == (sum(meant.values()), len(meant))
    assert sum(not quantized for quantized in meant.values()) == len(floats)
    for node in model.graph.node:
        if node.op_type == "Conv":
            assert node.input[0] in scales, f"{node.name} reads a tensor without scale"
            assert not meant[node.name] or node.output[0] in scales, f"{node.name} gives a tensor without scale"
            # A shortcut behind SiLU or hard-swish is added in half precision: only the sum has a scale.
            act = [user.output[0] for user in readers[node.output[0]] if user.op_type in PASSES]
            missing = [out for out in act if out not in scales and {user.op_type for user in readers[out]} != {"Add"}]
            assert not meant[node.name] or not missing, f"{node.name}: {missing}"


def test_a_network_without_all_ranges_falls_back_loudly(caplog):
    """Ranges of another toolkit are those of inputs only."""
    gm, _ = calibrated("yolov6s_mbla")
    floats = state_of(gm).float_layers
    choose_grid_(gm, "trt", floats)
    used = {placement.group for placement in state_of(gm).placements}
    for name, quantizer in gm.ranges.items():
        if name not in used:
            quantizer.amax.fill_(float("nan"))
    assert any(value != value for _, value in get_ranges(gm).values())
    assert choose_grid_(gm, "cache", floats) == "trt"
    assert "tensors have no range" in caplog.text and "dvc repro ptq-calib" in caplog.text
    assert state_of(gm).float_layers == floats


def test_a_trace_of_another_network_is_refused():
    gm, strides = calibrated("yolov6n_v2")
    trace = traced(gm, strides)
    note_quantized(trace, gm, frozenset())
    assert len(json.loads(get_note(trace, QUANTIZED))) == len(convolutions(trace))
    other, _ = calibrated("yolov6n6")
    with pytest.raises(ValueError, match="the trace has .* convolutions, the network"):
        note_quantized(trace, other, frozenset())


@pytest.mark.parametrize(
    ("judged", "dialect", "options", "other"),
    [
        ("openvino", "openvino", {}, False),
        ("openvino", "trt", {}, True),
        ("openvino", "ort", {}, True),
        ("trt", "trt", {}, False),
        ("trt", "cache", {}, False),
        ("openvino", "openvino", {"nms": "topk", "dynamic_batch": True}, True),
        ("trt", "openvino", {"nms": "topk", "dynamic_batch": True}, False),
    ],
)
def test_grids_are_compared_by_their_integers(judged, dialect, options, other):
    assert other_grid(judged, dialect, **options) == other
