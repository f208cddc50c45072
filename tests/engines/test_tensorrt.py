import sys
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch

from yolov6core.engines.onnx_facts import OnnxFacts
from yolov6core.engines.runtime import BuildSettings, RuntimeMissing
from yolov6core.engines.tensorrt_engine import TensorRtRuntime, _Build, audit, cache_version
from yolov6core.engines.tensorrt_import import import_tensorrt
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


@pytest.mark.gpu
def test_engine_agrees_with_torch_on_a_gpu(tmp_path, toy_net, images, run_torch, distance):
    runtime = TensorRtRuntime("tensorrt")
    try:
        runtime.version()
        runtime.device()
    except RuntimeMissing as error:
        pytest.skip(str(error))
    net = toy_net("trt")
    path = tmp_path / "model.onnx"
    write_dialect(net, path, dialect="trt", input_shape=SHAPE, dynamic_batch=True, opset=19, fp16=True)
    info = runtime.build(path, tmp_path / "engine", BuildSettings(max_batch=4))
    found = runtime.load(tmp_path / "engine", info).infer(images)
    assert distance(found, run_torch(net, np.ascontiguousarray(images))) < 0.03


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


class Library:
    """The part of a TensorRT library that the adapter uses before it parses a file."""

    MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
    ProfilingVerbosity = SimpleNamespace(DETAILED="detailed")

    def __init__(self, *, strongly_typed: bool) -> None:
        self.asked: list = []
        kinds = {"STRONGLY_TYPED": 1} if strongly_typed else {"EXPLICIT_BATCH": 0}
        self.NetworkDefinitionCreationFlag = SimpleNamespace(**kinds)
        self.BuilderFlag = SimpleNamespace() if strongly_typed else SimpleNamespace(INT8="int8", FP16="fp16")

    def build(self, settings: BuildSettings, *, quantized: int) -> SimpleNamespace:
        """A config after the adapter has filled it."""
        build = object.__new__(_Build)
        facts = OnnxFacts("trt", "fp16", SHAPE, quantized, 9)
        build.trt, build.settings, build.facts = self, settings, facts
        config = SimpleNamespace(
            builder_optimization_level=3,
            set_memory_pool_limit=lambda pool, size: self.asked.append((pool, size)),
            set_flag=self.asked.append,
        )
        build._configure(config)
        return config


def test_settings_reach_the_builder_of_every_version():
    new, old = Library(strongly_typed=True), Library(strongly_typed=False)
    config = new.build(BuildSettings(workspace_mib=64, optimization_level=5), quantized=6)
    assert (config.builder_optimization_level, new.asked) == (5, [("workspace", 64 << 20)])
    # TensorRT 8 has no strongly typed networks: Q/DQ needs the flags
    old.build(BuildSettings(), quantized=6)
    assert old.asked == ["int8", "fp16"]
    old.asked.clear()
    old.build(BuildSettings(), quantized=0)
    assert old.asked == ["fp16"]


LOG = """Engine Layer Information:
Name: a, LayerType: kgen, Inputs: [ { Name: images, Datatype: Float }], Outputs: []
Name: /stem/Conv_myl0_2, LayerType: correlation, Inputs: [ { Name: x, Dimensions: [1,3,8,8], Datatype: Int8 }], Const
Name: /up/ConvTranspose_myl0_3, LayerType: deconv, Inputs: [ { Name: y, Datatype: Half, Format: (NHWC) }], Constants
Name: /b/Conv, LayerType: CaskConvolution, Inputs: [ { Name: z, Format/Datatype: Thirty-two wide channel Int8 format }]
"""


def test_the_builder_log_is_read():
    integer, real = audit(LOG.splitlines())
    assert integer == ["/stem/Conv_myl0_2", "/b/Conv"]
    assert real == ["/up/ConvTranspose_myl0_3"]
