"""Ranges as other toolkits read them: what a reader of the documented formats computes from them is our network."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from yolov6core.exchange.calibration_cache import read_cache
from yolov6core.export.dialects import write_traced
from yolov6core.export.onnx_export import to_onnx
from yolov6core.export.plain_ranges import plain_ranges
from yolov6core.export.range_documents import DOCUMENTS, aimet_encodings, dynamic_ranges, ppq_config

SHAPE = (1, 3, 32, 32)


def run(model: onnx.ModelProto, images: np.ndarray) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, {"images": images}))


def simulated(model: onnx.ModelProto, document: dict[str, Any]) -> onnx.ModelProto:
    """The network with rounding where encodings 0.6.1 say so: real value = (integer + offset) * scale."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    for tensor in model.graph.initializer:
        if tensor.name in document["param_encodings"]:
            rows = document["param_encodings"][tensor.name]
            weight = numpy_helper.to_array(tensor)
            assert len(rows) == len(weight) and all(row["is_symmetric"] == "True" for row in rows)
            rounded = [
                np.clip(np.rint(w / np.float32(row["scale"])), row["offset"], row["offset"] + 255) * row["scale"]
                for w, row in zip(weight, rows, strict=True)
            ]
            tensor.CopyFrom(numpy_helper.from_array(np.stack(rounded).astype(np.float32), tensor.name))
    nodes = []
    for name, (row,) in document["activation_encodings"].items():
        assert row["bitwidth"] == 8 and row["min"] == pytest.approx(row["offset"] * row["scale"])
        assert row["max"] == pytest.approx((row["offset"] + 255) * row["scale"])
        scale, zero = f"{name}_scale", f"{name}_zero"
        model.graph.initializer.append(numpy_helper.from_array(np.float32(row["scale"]), scale))
        model.graph.initializer.append(numpy_helper.from_array(np.uint8(-row["offset"]), zero))
        for node in model.graph.node:
            node.input[:] = [f"{name}_real" if read == name else read for read in node.input]
        nodes.append(helper.make_node("QuantizeLinear", [name, scale, zero], [f"{name}_q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", scale, zero], [f"{name}_real"]))
    ordered: list[onnx.NodeProto] = []
    placed = {"images", "", *(tensor.name for tensor in model.graph.initializer)}
    pending = [*model.graph.node, *nodes]
    while pending:
        ready = [node for node in pending if placed.issuperset(node.input)]
        ordered += ready
        placed.update(name for node in ready for name in node.output)
        pending = [node for node in pending if node not in ready]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    onnx.checker.check_model(model)
    return model


@pytest.mark.parametrize("dialect", ["trt", "ort"])
def test_a_reader_of_the_encodings_computes_our_network(toy_net, images, run_torch, dialect):
    net = toy_net(dialect, exact=True)
    images = np.round(images[:1] * 64) / 64  # exact sums, so that equal grids give equal bits
    ranges = plain_ranges(to_onnx(net, input_shape=SHAPE))
    document = json.loads(aimet_encodings(ranges))
    assert not any(node.op_type.endswith("QuantizeLinear") for node in ranges.model.graph.node)
    assert len(document["param_encodings"]) == toy_net.quantized
    kinds = {row["is_symmetric"] for (row,) in document["activation_encodings"].values()}
    assert kinds == {"True" if dialect == "trt" else "False"}
    wanted = run_torch(net, images)
    for found, outputs in zip(run(simulated(ranges.model, document), images), wanted, strict=True):
        np.testing.assert_array_equal(found, outputs)
    plain = run(ranges.model, images)
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(plain, wanted, strict=True)), "rounding must be visible"


def test_dynamic_ranges_are_those_of_the_calibration_cache(toy_net, tmp_path):
    traced = to_onnx(toy_net("trt"), input_shape=SHAPE)
    written = write_traced(traced, tmp_path / "n.onnx", dialect="cache")
    assert written.cache is not None
    scales = read_cache(written.cache.read_text())
    lines = dynamic_ranges(plain_ranges(traced)).splitlines()
    found = {name: float(value) for name, value in (line.rsplit(": ", 1) for line in lines)}
    assert found == {name: pytest.approx(127 * scale) for name, scale in scales.items()} and len(found) > 6


def test_ppq_names_every_quantized_convolution(toy_net):
    ranges = plain_ranges(to_onnx(toy_net("trt"), input_shape=SHAPE))
    document = json.loads(ppq_config(ranges))
    nodes = {node.name: node for node in ranges.model.graph.node}
    assert document["dispatchings"].keys() == nodes.keys()
    assert [name for name, at in document["dispatchings"].items() if at == "TRT_INT8"] == list(document["configs"])
    assert len(document["configs"]) == toy_net.quantized
    for name, tensors in document["configs"].items():
        assert list(tensors) == list(nodes[name].input[:2])
        data, weight = tensors.values()
        assert data["policy"]["PER_TENSOR"] and weight["policy"]["PER_CHANNEL"]
        assert document["values"][str(weight["dominator"])]["scale"] == ranges.weights[nodes[name].input[1]].tolist()
        peak = document["act_quant_info"][nodes[name].input[0]]
        assert peak == pytest.approx(127 * document["values"][str(data["dominator"])]["scale"])


@pytest.mark.parametrize("style", ["ppq", "tensorrt"])
def test_formats_of_symmetric_ranges_refuse_others(toy_net, style):
    ranges = plain_ranges(to_onnx(toy_net("ort"), input_shape=SHAPE))
    with pytest.raises(ValueError, match="on a grid with zero points; the format holds symmetric ranges only"):
        DOCUMENTS[style].write(ranges)


def test_a_float_network_has_no_ranges(toy_net):
    traced = to_onnx(toy_net("trt"), input_shape=SHAPE)
    plain = plain_ranges(traced).model
    with pytest.raises(ValueError, match="no convolution is quantized"):
        plain_ranges(plain)
