"""Dialect `qdq`, which compilers of other makers read: standard operators alone, the same numbers wherever they run."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from yolov6core.exchange.graph_view import GraphView, integer_types
from yolov6core.export.dialects import grid_of, write_dialect
from yolov6core.export.onnx_run import open_outputs
from yolov6core.export.qdq import activation_pairs

SHAPE = (1, 3, 32, 32)
LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL")
GRIDS = {"uint8": "ort", "int8": "trt"}
"""Integers of the activations -> toy network that has them."""


@pytest.fixture
def written(tmp_path, toy_net):
    """Integers -> (exact toy network, its file)."""

    def write(activations: str):
        net = toy_net(GRIDS[activations], exact=True)
        return net, write_dialect(net, tmp_path / "model.onnx", dialect="qdq", input_shape=SHAPE, opset=19)

    return write


@pytest.fixture
def image(images):
    """On a grid of 7 bits, so that all float sums of the exact network are exact."""
    return np.round(images[:1] * 64) / np.float32(64)


@pytest.mark.parametrize("activations", GRIDS)
def test_every_evaluator_gives_the_numbers_of_torch(written, image, run_torch, activations):
    net, export = written(activations)
    wanted = run_torch(net, image)
    found = {"reference": ReferenceEvaluator(str(export.path)).run(["boxes", "scores"], {"images": image})}
    for level in LEVELS:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        session = onnxruntime.InferenceSession(export.path, options, providers=["CPUExecutionProvider"])
        found[level] = session.run(["boxes", "scores"], {"images": image})
    outputs = open_outputs(export.path, "openvino")(image)
    found["openvino"] = [outputs["boxes"], outputs["scores"]]
    for name, values in found.items():
        for value, same in zip(values, wanted, strict=True):
            np.testing.assert_array_equal(value, same, err_msg=name)
    assert wanted[0].std() > 0.01


@pytest.mark.parametrize("activations", GRIDS)
def test_the_file_holds_standard_pairs_only(written, activations):
    net, export = written(activations)
    model = onnx.load(export.path)
    assert {node.domain for node in model.graph.node} == {""}
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 19)]
    assert integer_types(model) == {activations} and export.quantized_convs == net.quantized
    view = GraphView(model)
    for pair in activation_pairs(view):
        zero_point = view.array(pair.quantize.input[2])
        assert zero_point.dtype == activations and (activations == "uint8" or zero_point == 0)
    # between QuantizeLinear and DequantizeLinear stands nothing: compilers look for pairs
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            assert {reader.op_type for reader in view.readers[node.output[0]]} == {"DequantizeLinear"}


@pytest.mark.parametrize("activations", GRIDS)
def test_weights_are_int8_per_channel_and_biases_as_the_readers_want(written, activations):
    _, export = written(activations)
    view = GraphView(onnx.load(export.path))
    quantized = [
        node
        for node in view.graph.node
        if node.op_type == "Conv" and node.input[1] not in view.constants and node.input[0] not in view.constants
    ]
    assert len(quantized) == 6
    for conv in quantized:
        weight = view.producer[conv.input[1]]
        integers, scales, zeros = (view.array(name) for name in weight.input)
        assert integers.dtype == zeros.dtype == np.int8 and not zeros.any()
        assert scales.shape == (len(integers),) and weight.op_type == "DequantizeLinear"
        if activations == "int8":
            assert numpy_helper.to_array(view.constants[conv.input[2]]).dtype == np.float32, "TensorRT refuses int32"
        else:
            assert view.array(view.producer[conv.input[2]].input[0]).dtype == np.int32


def test_a_model_on_two_grids_is_refused(tmp_path, toy_net):
    with pytest.raises(ValueError, match="one integer type"):
        write_dialect(toy_net("openvino"), tmp_path / "model.onnx", dialect="qdq", input_shape=SHAPE)


def test_the_grid_follows_the_integers_that_are_asked_for():
    assert grid_of("qdq") == "qdq" and grid_of("qdq", activations="int8") == "qdq_signed"
    assert grid_of("ort", activations="int8") == "ort"
