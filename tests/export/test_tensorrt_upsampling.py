"""Both forms of upsampling in TensorRT: transposed convolution, and 1x1 convolution with DepthToSpace."""

import copy
import statistics

import numpy as np
import onnx
import pytest

from tests.support import families
from yolov6core.engines.runtime import BuildSettings, RuntimeMissing
from yolov6core.engines.tensorrt_engine import TensorRtRuntime
from yolov6core.exchange.compare import compare_outputs
from yolov6core.export.dialects import write_traced
from yolov6core.export.onnx_export import to_onnx
from yolov6core.models.decoded import DecodedNetwork
from yolov6core.quant.upsampling import split_upsampling_


@pytest.fixture
def both(tmp_path):
    """Operator of the upsampling -> float file in half precision."""
    network, strides = families.float_network("yolov6n_v2")
    split = copy.deepcopy(network)
    split_upsampling_(split)
    found = {}
    for operator, form in (("ConvTranspose", network), ("DepthToSpace", split)):
        decoded = DecodedNetwork(form, strides=strides, image_size=families.IMAGE).eval()
        trace = to_onnx(decoded, input_shape=(1, 3, *families.IMAGE), opset=19)
        found[operator] = write_traced(trace, tmp_path / f"{operator}.onnx", dialect="trt", fp16=True).path
        kinds = {node.op_type for node in onnx.load(found[operator]).graph.node}
        assert kinds & {"ConvTranspose", "DepthToSpace"} == {operator}
    return found


def engines_of(files, tmp_path, name):
    runtime = TensorRtRuntime(name)
    try:
        runtime.version()
        runtime.device()
    except RuntimeMissing as error:
        pytest.skip(str(error))
    return {
        operator: (tmp_path / operator, runtime.build(path, tmp_path / operator, BuildSettings()))
        for operator, path in files.items()
    }


def test_rtx_builds_both_forms(both, tmp_path):
    for _, info in engines_of(both, tmp_path, "tensorrt_rtx").values():
        assert (info.wanted_int8, info.precision) == (0, "fp16") and info.convs > 20


@pytest.mark.gpu
def test_both_forms_agree_and_are_timed_on_a_gpu(both, tmp_path, capsys):
    """The times are for people: which form is faster on TensorRT is not known yet."""
    images = np.random.default_rng(0).random((1, 3, *families.IMAGE), dtype=np.float32)
    outputs, times = [], {}
    for operator, (folder, info) in engines_of(both, tmp_path, "tensorrt").items():
        engine = TensorRtRuntime("tensorrt").load(folder, info)
        outputs.append(engine.infer(images))
        times[operator] = statistics.median(engine.compute_ms(images, 200))
    assert compare_outputs(outputs[:1], outputs[1:])["relative_l2"] < 0.02
    with capsys.disabled():
        print("\n" + ", ".join(f"{operator} {value:.4f} ms" for operator, value in times.items()))
    assert min(times.values()) > 0
