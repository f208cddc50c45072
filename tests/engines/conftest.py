"""Fixtures of the tests of engines."""

import pytest

from tests.support.fake_tensorrt import installed
from tests.support.fixtures import distance, images, one_thread, run_torch, toy_net
from tests.support.tensorrt_cases import flavour, new_library
from yolov6core.exchange.interface import Interface
from yolov6core.export.dialects import write_dialect, write_traced
from yolov6core.export.onnx_export import to_onnx

__all__ = ["distance", "images", "one_thread", "run_torch", "toy_net"]
SHAPE = (1, 3, 32, 32)


@pytest.fixture(scope="session")
def files(tmp_path_factory, toy_net):
    """Files of the toy network by dialect; each version takes those that `suits` names."""
    folder = tmp_path_factory.mktemp("files")
    found = {}
    for name, dialect, options in (
        ("plain", "trt", {"opset": 17}),
        ("open", "trt", {"opset": 19, "fp16": True, "dynamic_batch": True}),
        ("cache", "cache", {"opset": 17, "dynamic_batch": True}),
        ("fixed", "cache", {"opset": 17}),
    ):
        found[name] = folder / f"{name}.onnx"
        write_dialect(toy_net("trt"), found[name], dialect=dialect, input_shape=SHAPE, **options)
    trace = to_onnx(toy_net("trt"), input_shape=SHAPE, opset=17)
    found["plugin"] = write_traced(
        trace, folder / "plugin.onnx", dialect="trt", interface=Interface(nms="efficient_nms")
    ).path
    return found


@pytest.fixture
def library(request):
    """A fake library of a version, in the place of the real one."""
    with installed(new_library(request.param), flavour(request.param)) as fake:
        yield fake
