"""OpenVINO on the CPU: runs FakeQuantize graphs of dialect 'openvino' in INT8."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from yolov6core.engines.onnx_facts import read_facts, record_engine
from yolov6core.engines.runtime import (
    BuildSettings,
    EngineInfo,
    RuntimeMissing,
    check_images,
)

NAME = "openvino"
FILE = "model.xml"
CONVOLUTIONS = ("Convolution", "GroupConvolution", "Deconvolution")
INTEGERS = ("u8", "i8")


def version() -> str:
    """Version of OpenVINO, as 2026.4.1. Raises RuntimeMissing."""
    return _module().__version__.split("-")[0]


def device() -> str:
    """'CPU', the only device of OpenVINO that this project uses."""
    _module()
    return "CPU"


def build(onnx_path: Path, folder: Path, settings: BuildSettings) -> EngineInfo:
    """Convert a file to OpenVINO's own format (model.xml, model.bin), compile it once and count what runs in INT8."""
    facts = read_facts(onnx_path, NAME)
    ov = _module()
    folder.mkdir(parents=True, exist_ok=True)
    model = ov.Core().read_model(onnx_path)
    _number_names(model)
    # Compression to float16 would change the float layers for 0.1 MB less.
    ov.save_model(model, folder / FILE, compress_to_fp16=False)
    compiled = _compile(folder / FILE, settings)
    built_by = (NAME, version(), device())
    return record_engine(
        folder, facts, settings, built_by=built_by, file=FILE, precision=settings.precision, audit=audit(compiled)
    )


def _number_names(model: Any) -> None:
    """Number the operators that OpenVINO named by a counter of the whole process, for equal bytes."""
    for index, node in enumerate(model.get_ordered_ops()):
        if re.fullmatch(r"[A-Z]\w*_\d+", node.get_friendly_name()):
            node.set_friendly_name(f"{node.get_type_name()}.{index}")


def audit(compiled: Any) -> tuple[list[str], list[str]]:
    """Names of (integer, float) convolutions in the execution graph of a compiled model."""
    integer, real = [], []
    for node in compiled.get_runtime_model().get_ops():
        facts = node.get_rt_info()
        if _text(facts["layerType"]) in CONVOLUTIONS:
            found = integer if _text(facts["runtimePrecision"]) in INTEGERS else real
            found.append(node.get_friendly_name())
    return integer, real


def load(folder: Path, info: EngineInfo) -> OpenVinoEngine:
    """Open an engine written by `build`."""
    return OpenVinoEngine(folder / info.file, info)


def run_file(path: Path) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """A file of dialect 'openvino' without an engine around it, in INT8 as it will run."""
    request = _compile(path, BuildSettings()).create_infer_request()

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        result = request.infer([images], share_outputs=False)
        return result["boxes"], result["scores"]

    return run


class OpenVinoEngine:
    """One infer request with a fixed number of threads."""

    def __init__(self, path: Path, info: EngineInfo) -> None:
        self.info = info
        self._request = _compile(path, info.settings).create_infer_request()

    def infer(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `runtime.Engine`."""
        # Outputs are copied: the request overwrites its own on the next call.
        result = self._request.infer([check_images(images, self.info)], share_inputs=True, share_outputs=False)
        return result["boxes"], result["scores"]


def _compile(path: Path, settings: BuildSettings) -> Any:
    options = {
        "PERFORMANCE_HINT": settings.hint.upper(),
        # Left to itself OpenVINO takes bf16 wherever the CPU has it, so numbers would differ from machine to machine.
        "INFERENCE_PRECISION_HINT": settings.precision,
    }
    if settings.threads:
        options["INFERENCE_NUM_THREADS"] = settings.threads
    return _module().Core().compile_model(path, "CPU", options)


def _text(value: Any) -> str:
    return str(getattr(value, "value", value))


def _module() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise RuntimeMissing("OpenVINO is not installed: pip install openvino") from error
    return openvino
