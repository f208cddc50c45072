"""OpenVINO on the CPU: runs FakeQuantize graphs of dialect 'openvino' in INT8."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from yolov6core.base.errors import logger
from yolov6core.engines.onnx_facts import read_facts
from yolov6core.engines.record import Built, engine_info, plain_facts, record_engine
from yolov6core.engines.runtime import (
    BuildSettings,
    EngineInfo,
    RuntimeMissing,
    feed,
    finish,
)
from yolov6core.exchange.openvino_module import load_openvino
from yolov6core.exchange.overflow import OPENVINO_EXACT

NAME = "openvino"
FILE = "model.xml"
CONVOLUTIONS = ("Convolution", "GroupConvolution", "Deconvolution")
PRECISIONS = ("f32", "bf16", "f16")
INTEGERS = ("u8", "i8")


def version() -> str:
    """Version of OpenVINO, as 2026.4.1. Raises RuntimeMissing."""
    return _module().__version__.split("-")[0]


def device() -> str:
    """'CPU', the only device of OpenVINO that this project uses."""
    _module()
    return "CPU"


def build(onnx_path: Path, folder: Path, settings: BuildSettings) -> EngineInfo:
    """Convert a file to OpenVINO's format (model.xml, model.bin), compile it once and count its INT8 convolutions."""
    facts = read_facts(onnx_path, NAME)
    ov = _module()
    folder.mkdir(parents=True, exist_ok=True)
    model = ov.Core().read_model(onnx_path)
    _number_names(model)
    # Compression to float16 would change the float layers for 0.1 MB less.
    ov.save_model(model, folder / FILE, compress_to_fp16=False)
    compiled = _compile(folder / FILE, settings)
    return record_engine(folder, onnx_path, facts, settings, _built(compiled, FILE, settings))


def _built(compiled: Any, file: str, settings: BuildSettings) -> Built:
    precision = real_precision(compiled)
    if precision != settings.precision:
        logger.warning(
            "precision %s is asked for, this CPU cannot do it: OpenVINO runs float layers in %s",
            *(settings.precision, precision),
        )
    return Built((NAME, version(), device()), file, precision, *audit(compiled))


def real_precision(compiled: Any) -> str:
    """Precision of the layers that are not INT8, as the compiled network says: 'f32', 'bf16' or 'f16'.

    A precision that the CPU lacks is a hint that OpenVINO silently leaves out.
    """
    facts = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    runs = [_text(fact["runtimePrecision"]) for fact in facts if _text(fact["layerType"]) in CONVOLUTIONS]
    counts = Counter(kind for kind in runs if kind in PRECISIONS)
    if counts:
        return counts.most_common(1)[0][0]
    hint = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    return hint if hint in PRECISIONS else "f32"


def _number_names(model: Any) -> None:
    """Renumber operators that OpenVINO named by a counter of the process, so that equal files get equal bytes."""
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


def load_exact(folder: Path, info: EngineInfo) -> OpenVinoEngine:
    """Open an engine that rounds to the same integers and adds them in float32: slow, but exact on every CPU."""
    path = folder / info.file
    return OpenVinoEngine(path, info, _compile(path, info.settings, integers=False))


def open_file(path: Path, settings: BuildSettings) -> OpenVinoEngine:
    """Open an ONNX file without building an engine. Raises ValueError where OpenVINO refuses it."""
    plain_facts(path)
    facts = read_facts(path, NAME)
    try:
        compiled = _compile(path, settings)
    except RuntimeError as error:
        lines = str(error).strip().splitlines() or ["no reason given"]
        raise ValueError(f"OpenVINO cannot read {path}: {lines[-1]}") from None
    built = _built(compiled, path.name, settings)
    return OpenVinoEngine(path, engine_info(path, facts, settings, built), compiled)


class OpenVinoEngine:
    """One infer request with a fixed number of threads; streams use a second model compiled for many requests."""

    def __init__(self, path: Path, info: EngineInfo, compiled: Any = None) -> None:
        self.info = info
        self._path, self._queue = path, None
        self._request = (compiled or _compile(path, info.settings)).create_infer_request()

    def infer(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `runtime.Engine`."""
        # Outputs are copied: the request overwrites its own on the next call.
        result = self._request.infer([feed(images, self.info)], share_inputs=True, share_outputs=False)
        return finish({self._name(port): value for port, value in result.items()}, self.info)

    def _name(self, port: Any) -> str:
        """Name of the output at a port: OpenVINO keeps the names of all tensors that were merged."""
        return next((name for name in self.info.interface.outputs if name in port.names), port.any_name)

    def stream(self, images: np.ndarray, count: int) -> None:
        """See `runtime.Engine`: as many requests at once as OpenVINO's hint 'throughput' asks for."""
        if self._queue is None:
            compiled = _compile(self._path, replace(self.info.settings, hint="throughput"))
            self._queue = _module().AsyncInferQueue(compiled)  # 0: the number that the hint asks for
        images = feed(images, self.info)
        for _ in range(count):
            self._queue.start_async([images], share_inputs=True)
        self._queue.wait_all()


def _compile(path: Path, settings: BuildSettings, *, integers: bool = True) -> Any:
    options: dict[str, Any] = {
        **({} if integers else OPENVINO_EXACT),
        "PERFORMANCE_HINT": settings.hint.upper(),
        # By default OpenVINO uses bf16 wherever the CPU has it, so numbers would differ from machine to machine.
        "INFERENCE_PRECISION_HINT": settings.precision,
    }
    if settings.threads:
        options["INFERENCE_NUM_THREADS"] = settings.threads
    return _module().Core().compile_model(path, "CPU", options)


def _text(value: Any) -> str:
    return str(getattr(value, "value", value))


def _module() -> Any:
    try:
        return load_openvino()
    except ImportError as error:
        raise RuntimeMissing("OpenVINO is not installed: pip install openvino") from error
