import statistics
import sys

import numpy as np
import onnx
import pytest
import torch

from yolov6core.engines.latency import measure
from yolov6core.engines.runtime import BuildSettings, RuntimeMissing
from yolov6core.engines.tensorrt_engine import TensorRtRuntime
from yolov6core.engines.tensorrt_import import import_tensorrt
from yolov6core.engines.tensorrt_precision import cache_version
from yolov6core.export.dialects import write_dialect

SHAPE = (1, 3, 32, 32)
RTX = TensorRtRuntime("tensorrt_rtx")


@pytest.fixture
def rtx():
    try:
        RTX.version()
    except RuntimeMissing as error:
        pytest.skip(str(error))
    return RTX


@pytest.mark.parametrize("fp16, dynamic", [(False, False), (True, True)])
def test_rtx_builds_every_quantized_convolution_in_int8(tmp_path, toy_net, rtx, fp16, dynamic):
    path = tmp_path / "model.onnx"
    net = toy_net("trt")
    write_dialect(net, path, dialect="trt", input_shape=SHAPE, dynamic_batch=dynamic, opset=19, fp16=fp16)
    info = rtx.build(path, tmp_path / "engine", BuildSettings(max_batch=4))
    assert (info.int8_convs, info.wanted_int8, info.float_layers) == (net.quantized, net.quantized, ())
    assert info.precision == ("fp16" if fp16 else "fp32")
    assert (tmp_path / "engine" / info.file).stat().st_size > 100_000


def test_rtx_builds_the_float_network(tmp_path, toy_net, rtx):
    net = toy_net("trt")
    for module in net.modules():
        if hasattr(module, "grid"):
            module.forward = lambda x: x
    path = tmp_path / "model.onnx"
    write_dialect(net, path, dialect="trt", input_shape=SHAPE, opset=19, fp16=True)
    info = rtx.build(path, tmp_path / "engine", BuildSettings())
    assert (info.int8_convs, info.wanted_int8) == (0, 0)


def test_running_without_a_gpu_says_so(tmp_path, toy_net, rtx):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    path = tmp_path / "model.onnx"
    write_dialect(toy_net("trt"), path, dialect="trt", input_shape=SHAPE)
    info = rtx.build(path, tmp_path / "engine", BuildSettings())
    with pytest.raises(RuntimeMissing, match="CUDA"):
        rtx.load(tmp_path / "engine", info)


def test_parser_errors_reach_the_reader(tmp_path, toy_net, rtx):
    path = tmp_path / "model.onnx"
    export = write_dialect(toy_net("trt"), path, dialect="trt", input_shape=SHAPE)
    model = onnx.load(export.path)
    model.graph.node[-1].op_type = "NoSuchOperator"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="NoSuchOperator"):
        rtx.build(path, tmp_path / "engine", BuildSettings())


@pytest.fixture
def built_on_gpu(tmp_path, toy_net):
    """(network, folder, info) of an engine with an open batch, built by TensorRT here."""
    runtime = TensorRtRuntime("tensorrt")
    try:
        runtime.version()
        runtime.device()
    except RuntimeMissing as error:
        pytest.skip(str(error))
    net, path = toy_net("trt"), tmp_path / "model.onnx"
    write_dialect(net, path, dialect="trt", input_shape=SHAPE, dynamic_batch=True, opset=19, fp16=True)
    return net, tmp_path / "engine", runtime.build(path, tmp_path / "engine", BuildSettings(max_batch=4))


@pytest.mark.gpu
@pytest.mark.parametrize("count", [1, 2, 4])
def test_engine_agrees_with_torch_on_a_gpu(built_on_gpu, images, run_torch, distance, count):
    net, folder, info = built_on_gpu
    assert (info.int8_convs, info.float_layers) == (net.quantized, ())
    batch = np.ascontiguousarray(images[:count])
    engine = TensorRtRuntime("tensorrt").load(folder, info)
    for _ in range(3):  # the first run of a shape, and repetitions of its graph
        found = engine.infer(batch)
        assert distance(found, run_torch(net, batch)) < 0.03


@pytest.mark.gpu
def test_times_without_copies_are_shorter_on_a_gpu(built_on_gpu, images):
    _, folder, info = built_on_gpu
    engine = TensorRtRuntime("tensorrt").load(folder, info)
    calls = measure({"all": lambda: engine.infer(images[:1])}, rounds=3, repeats=50)["all"].median_ms
    alone = statistics.median(engine.compute_ms(images[:1], 50))
    assert 0 < alone < calls


@pytest.mark.parametrize("flavour, module", [("tensorrt", "tensorrt"), ("tensorrt_rtx", "tensorrt_rtx_bindings")])
def test_missing_library_names_the_command(monkeypatch, flavour, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(RuntimeMissing, match="is not installed .*pip install"):
        import_tensorrt.__wrapped__(flavour)


def test_cache_version_is_written_as_tensorrt_does():
    assert [cache_version(text) for text in ("8.6.1", "8.5.3.1", "10.3.0", "10.13.2")] == [
        "8601",
        "8503",
        "100300",
        "101302",
    ]
