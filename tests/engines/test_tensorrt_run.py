"""Runs of engines with the API of every version, in the memory of the CPU: order, arguments and answers."""

import numpy as np
import pytest
import torch

from tests.support.fake_tensorrt import CpuMemory, FakeLibrary, installed
from tests.support.tensorrt_cases import TENSORS, VERSIONS, flavour, opened
from yolov6core.engines.onnxruntime_engine import OnnxRuntimeEngine
from yolov6core.engines.openvino_engine import OpenVinoEngine
from yolov6core.engines.runtime import BuildSettings, EngineInfo, EngineMismatch, OnGpu, RuntimeMissing, check_info

every_version = pytest.mark.parametrize("library", VERSIONS, indirect=True)


@every_version
def test_every_version_runs_and_times(library, tmp_path):
    engine = opened(library, tmp_path)
    buffers = {}
    library.behaviours["IExecutionContext.execute_async_v3"] = lambda context, stream: (
        bool(buffers.update(run=stream)) or True
    )
    for count in (1, 3, 4, 1):
        boxes, scores = engine.infer(np.zeros((count, 3, 8, 8), np.float32))
        assert (boxes.shape, scores.shape, scores.dtype) == ((count, 5, 4), (count, 5, 2), np.float32)
    assert buffers == {"run": CpuMemory.handle}
    profiles = library.asked("IExecutionContext.set_optimization_profile_async")
    assert profiles == [(0, CpuMemory.handle), (1, CpuMemory.handle)], "one context for one image, one for more"
    quiet = (library.ProfilingVerbosity.NONE,)
    assert library.asked("IExecutionContext.nvtx_verbosity") == [quiet, quiet]
    assert engine._memory.captures == 3, "a graph for each new shape; one image comes back to its own"
    with pytest.raises(ValueError, match="5 images at once are too many .* up to 4: raise engine.max_batch"):
        engine.infer(np.zeros((5, 3, 8, 8), np.float32))
    runs = len(library.asked("IExecutionContext.execute_async_v3"))
    engine.stream(np.zeros((4, 3, 8, 8), np.float32), 5)
    assert len(library.asked("IExecutionContext.execute_async_v3")) == runs + 5, "buffers for four images are there"
    assert engine.compute_ms(np.zeros((4, 3, 8, 8), np.float32), 3) == [1.0, 1.0, 1.0]


def test_only_engines_on_a_gpu_have_times_without_copies(tmp_path):
    library = FakeLibrary("10.3.0")
    with installed(library):
        assert isinstance(opened(library, tmp_path), OnGpu)
    assert not issubclass(OpenVinoEngine, OnGpu) and not issubclass(OnnxRuntimeEngine, OnGpu)


class Here:
    """TensorRT 10.13.2 on an A10."""

    NAME = "tensorrt"

    def version(self) -> str:
        return "10.13.2"

    def device(self) -> str:
        return "A10"


@pytest.mark.parametrize(
    ("version", "device", "settings", "refused"),
    [
        ("10.13.2", "A10", {}, ""),
        ("10.3.0", "A10", {}, "version '10.3.0', here it is '10.13.2'"),
        ("10.3.0", "A10", {"version_compatible": True}, ""),
        ("10.14.1", "A10", {"version_compatible": True}, "version '10.14.1'"),
        ("8.6.1", "A10", {"version_compatible": True}, "version '8.6.1'"),
        ("10.13.2", "A100", {}, "device 'A100', here it is 'A10'"),
        ("10.13.2", "A100", {"hardware_compatibility": "ampere_plus"}, ""),
        ("10.3.0", "A100", {"hardware_compatibility": "ampere_plus"}, "version '10.3.0'"),
    ],
)
def test_engines_for_other_places_are_taken_where_they_were_built_for_them(version, device, settings, refused):
    facts = ("model.engine", "trt", "fp16", (1, 3, 8, 8))
    info = EngineInfo("tensorrt", version, device, *facts, BuildSettings(**settings), 9, 6, 6)
    if not refused:
        return check_info(info, Here())
    with pytest.raises(EngineMismatch, match=refused):
        check_info(info, Here())


def test_outputs_stay_valid_after_the_next_run(tmp_path):
    library = FakeLibrary("10.3.0")
    with installed(library):
        engine = opened(library, tmp_path)
        first, _ = engine.infer(np.zeros((1, 3, 8, 8), np.float32))
        engine._contexts[0]._outputs["boxes"].fill_(7)
        second, _ = engine.infer(np.zeros((1, 3, 8, 8), np.float32))
    assert (first == 0).all() and (second == 7).all()


@pytest.mark.parametrize(
    "version, kind, dtype",
    [
        *(
            (version, kind, dtype)
            for version in VERSIONS
            for kind, dtype in (("INT8", torch.int8), ("BOOL", torch.bool))
        ),
        ("8.6.1", "UINT8", torch.uint8),
        ("10.3.0", "INT64", torch.int64),
        ("11.4.0.106", "BF16", torch.bfloat16),
        ("rtx", "INT32", torch.int32),
    ],
)
def test_all_types_of_tensors_are_bound(tmp_path, version, kind, dtype):
    library = FakeLibrary(version)
    with installed(library, flavour(version)):
        engine = opened(library, tmp_path, TENSORS | {"scores": ("OUTPUT", kind, (-1, 5, 2))})
        _, scores = engine.infer(np.zeros((1, 3, 8, 8), np.float32))
        assert engine._contexts[0]._outputs["scores"].dtype == dtype
    assert scores.shape == (1, 5, 2)


def test_pixels_and_unknown_types(tmp_path):
    library = FakeLibrary("10.3.0")
    with installed(library):
        engine = opened(library, tmp_path, TENSORS | {"scores": ("OUTPUT", "FP8", (-1, 5, 2))})
        with pytest.raises(ValueError, match="tensor scores of the engine has type .*FP8; FLOAT, HALF"):
            engine.infer(np.zeros((1, 3, 8, 8), np.float32))


@pytest.mark.parametrize(
    "answer, error, message",
    [
        ({"IExecutionContext.set_input_shape": False}, ValueError, "does not take an input images of shape"),
        ({"IExecutionContext.set_tensor_address": False}, RuntimeError, "could not take the address of images"),
        ({"IExecutionContext.set_optimization_profile_async": False}, RuntimeError, "could not select profile 0"),
        ({"IExecutionContext.execute_async_v3": False}, RuntimeError, "could not run the engine"),
        ({"ICudaEngine.create_execution_context": None}, RuntimeError, "no memory for another execution context"),
        ({"IExecutionContext.get_tensor_shape": (-1, 4)}, ValueError, "depends on the image: export with nms 'topk'"),
    ],
)
def test_every_answer_of_the_library_is_looked_at(tmp_path, answer, error, message):
    library = FakeLibrary("10.3.0")
    with installed(library):
        engine = opened(library, tmp_path)
        ((name, value),) = answer.items()
        library.behaviours[name] = lambda *arguments: value
        with pytest.raises(error, match=message):
            engine.infer(np.zeros((1, 3, 8, 8), np.float32))


@pytest.mark.parametrize("version", VERSIONS)
def test_an_engine_of_another_machine_says_so(tmp_path, version):
    library = FakeLibrary(version)
    library.behaviours["Runtime.deserialize_cuda_engine"] = lambda runtime, data: None
    with (
        installed(library, flavour(version)),
        pytest.raises(RuntimeMissing, match="build it on the machine that runs it"),
    ):
        opened(library, tmp_path)


def test_engines_for_accelerators_and_other_versions_are_opened_as_such(tmp_path):
    library = FakeLibrary("10.3.0")
    with installed(library):
        opened(library, tmp_path, dla_core=1, version_compatible=True)
    assert library.asked("Runtime.DLA_core") == [(1,)]
    assert library.asked("Runtime.engine_host_code_allowed") == [(True,)]
