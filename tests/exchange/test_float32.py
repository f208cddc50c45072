"""Float16 files made float32 again."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.support import families
from yolov6core.exchange.float32 import to_float32
from yolov6core.exchange.interface import Interface
from yolov6core.exchange.onnx_notes import get_note
from yolov6core.export.dialects import write_traced
from yolov6core.export.onnx_export import OUTPUTS, RAW_OUTPUTS, to_onnx
from yolov6core.export.onnx_run import open_outputs
from yolov6core.models.decoded import DecodedNetwork

FORMS = [
    Interface(),
    Interface(nms="topk", input="uint8", score_threshold=0.001, max_detections=50),
    Interface(nms="efficient_nms"),
    Interface(form="raw", strides=(8, 16, 32)),
]


@pytest.mark.parametrize("interface", FORMS, ids=lambda form: f"{form.form}-{form.nms}-{form.input}")
def test_the_file_computes_the_same_without_float16(tmp_path, interface):
    network, strides = families.float_network("yolov6n_v2")
    raw = interface.form == "raw"
    module = network if raw else DecodedNetwork(network, strides=strides, image_size=families.IMAGE).eval()
    traced = to_onnx(module, input_shape=(1, 3, *families.IMAGE), opset=19, outputs=RAW_OUTPUTS if raw else OUTPUTS)
    half, full = (
        write_traced(traced, tmp_path / f"{fp16}.onnx", dialect="trt", fp16=fp16, interface=interface)
        for fp16 in (True, False)
    )
    before = onnx.load(half.path)
    kinds = {tensor.data_type for tensor in before.graph.initializer}
    assert onnx.TensorProto.FLOAT16 in kinds
    found = to_float32(onnx.load(half.path))
    assert onnx.TensorProto.FLOAT16 not in {tensor.data_type for tensor in found.graph.initializer}
    left, whole = (
        {node.name for node in file.graph.node if node.op_type != "Cast"} for file in (found, onnx.load(full.path))
    )
    assert left == whole
    assert not [node for node in found.graph.node if node.name.endswith("_half")], "no Cast to float16 is left"
    assert list(map(str, found.graph.output)) == list(map(str, before.graph.output))
    assert get_note(found, "precision") == "fp32"
    if interface.nms == "efficient_nms":
        return  # TensorRT's plugin, which no other runtime has
    images = families.pixels(1)
    outputs = [open_outputs(source, "ort")(interface.feed(images)) for source in (found.SerializeToString(), full.path)]
    for name in ["scores"] if interface.nms == "topk" else outputs[0]:  # boxes of nearly the same score change places
        assert np.allclose(outputs[0][name], outputs[1][name], rtol=0.01, atol=0.01 * np.abs(outputs[1][name]).max())


def test_whole_numbers_become_float32():
    inputs = [helper.make_tensor_value_info("x", TensorProto.INT64, [2])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])]
    nodes = [
        helper.make_node("Cast", ["x"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Mul", ["half", "factor"], ["product"]),
        helper.make_node("Cast", ["product"], ["y"], to=TensorProto.FLOAT),
    ]
    factor = numpy_helper.from_array(np.array(0.1, np.float16), "factor")
    model = helper.make_model(helper.make_graph(nodes, "graph", inputs, outputs, [factor]))
    found = to_float32(model)
    onnx.checker.check_model(found, full_check=True)
    assert [node.op_type for node in found.graph.node] == ["Cast", "Mul", "Cast"]
