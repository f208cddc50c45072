"""Builds and runs of the TensorRT adapter with a fake library of some version, for several test files."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.fake_tensorrt import CpuMemory, FakeLibrary, runnable
from yolov6core.engines.onnx_facts import read_facts
from yolov6core.engines.runtime import BuildSettings, EngineInfo
from yolov6core.engines.tensorrt_build import Build, Plan
from yolov6core.engines.tensorrt_engine import TensorRtEngine

VERSIONS = ("8.6.1", "10.3.0", "11.4.0.106", "rtx")
JSON = '{"Layers": [{"Name": "a", "LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": "Int8 format"}]}]}'
TENSORS = {
    "images": ("INPUT", "FLOAT", (-1, 3, 8, 8)),
    "boxes": ("OUTPUT", "FLOAT", (-1, 5, 4)),
    "scores": ("OUTPUT", "HALF", (-1, 5, 2)),
}
"""Of a small engine: mode, type and shape."""
SCALES_FOUND = b"TRT-8601-EntropyCalibration2\nimages: 3c010a14\n"
"""By a calibration of the fake library."""


def flavour(version: str) -> str:
    """Name of the runtime of a key of VERSIONS, or of a library's own version."""
    return "tensorrt_rtx" if version == "rtx" or version.startswith("1.") else "tensorrt"


def new_library(version: str) -> FakeLibrary:
    """A fake library whose networks are empty and whose engines have one layer."""
    fake = FakeLibrary(version)
    fake.values |= {"INetworkDefinition.num_layers": 0, "Builder.num_DLA_cores": 2, "OnnxParser.num_errors": 0}
    fake.behaviours |= {"EngineInspector.get_engine_information": lambda inspector, form: JSON}
    return fake


def build(library: FakeLibrary, path: Path, folder: Path, **settings: Any) -> Plan:
    """Build a file with an installed fake library."""
    own = flavour(library.__version__)
    folder.mkdir(exist_ok=True)
    facts = read_facts(path, own, version=library.__version__)
    return Build(own, facts, BuildSettings(max_batch=4, **settings)).run(path, folder)


def opened(
    library: FakeLibrary,
    folder: Path,
    tensors: dict[str, tuple[str, str, tuple[int, ...]]] = TENSORS,
    limits: Sequence[tuple[int, int, int]] = ((1, 1, 1), (1, 4, 4)),
    **settings: Any,
) -> TensorRtEngine:
    """An engine of an installed fake library, in the memory of the CPU."""
    runnable(library, tensors, list(limits))
    path = folder / "model.engine"
    path.write_bytes(b"plan")
    own = flavour(library.__version__)
    shape = next(shape for mode, _, shape in tensors.values() if mode == "INPUT")
    info = EngineInfo(
        own, library.__version__, "GPU", path.name, "trt", "fp16", shape, BuildSettings(**settings), 9, 6, 6
    )
    return TensorRtEngine(own, path, info, CpuMemory())


def calibrate_in_builds(library: FakeLibrary, shape: Sequence[int], kind: type = ctypes.c_float) -> list[np.ndarray]:
    """Let builds of a fake library call their calibrator, if they have one, as TensorRT does.

    Args:
        shape, kind: of a batch.

    Returns: list that all batches come into which it was given.
    """
    given: list[np.ndarray] = []

    def build(builder: Any, network: Any, config: Any) -> Any:
        reader = config.__dict__.get("int8_calibrator")
        if reader is not None:
            assert reader.read_calibration_cache() is None, "it would not calibrate"
            assert reader.get_batch_size() == shape[0]
            while addresses := reader.get_batch(["images"]):
                (address,) = addresses
                numbers = (kind * int(np.prod(shape))).from_address(address)
                given.append(np.ctypeslib.as_array(numbers).reshape(shape).copy())
            if given:
                reader.write_calibration_cache(memoryview(SCALES_FOUND))
        return library.IHostMemory(b"plan")

    library.behaviours["Builder.build_serialized_network"] = build
    return given
