"""OpenVINO on the CPU: runs FakeQuantize graphs of dialect 'openvino' in INT8."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
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
from yolov6core.exchange.interface import Interface
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
    return OpenVinoEngine(path, info, of_images=_compile(path, info.settings, integers=False))


def open_file(path: Path, settings: BuildSettings) -> OpenVinoEngine:
    """Open an ONNX file without building an engine. Raises ValueError where OpenVINO refuses it."""
    plain_facts(path)
    facts = read_facts(path, NAME)
    try:
        compiled = _compile(path, settings, pixels=facts.interface)
    except RuntimeError as error:
        lines = str(error).strip().splitlines() or ["no reason given"]
        raise ValueError(f"OpenVINO cannot read {path}: {lines[-1]}") from None
    built = _built(compiled, path.name, settings)
    return OpenVinoEngine(path, engine_info(path, facts, settings, built), of_pixels=compiled)


class OpenVinoEngine:
    """A network with a fixed number of threads.

    It is compiled once for pixels, which detectors give, and once for float images, each when it is first used; streams
    use a third one, compiled for many requests.
    """

    def __init__(self, path: Path, info: EngineInfo, *, of_pixels: Any = None, of_images: Any = None) -> None:
        """Args: of_pixels, of_images: networks that are compiled already."""
        self.info = info
        self._path, self._queue = path, None
        self._of_images = None if of_images is None else _Request(of_images, info)
        self._of_pixels = None if of_pixels is None else _Request(of_pixels, info)

    def infer(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `runtime.Engine`."""
        images = feed(images, self.info)
        if self._of_images is None:
            self._of_images = _Request(_compile(self._path, self.info.settings), self.info)
        boxes, scores = self._of_images.run(images)
        return boxes.copy(), scores.copy()  # the request overwrites its own on the next call

    def infer_pixels(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `pixels.TakesPixels`: OpenVINO turns them into float images, or into the first integers at once."""
        if self._of_pixels is None:
            self._of_pixels = _Request(_compile(self._path, self.info.settings, pixels=self.info.interface), self.info)
        return self._of_pixels.run(pixels)

    def stream(self, images: np.ndarray, count: int) -> None:
        """See `runtime.Engine`: as many requests at once as OpenVINO's hint 'throughput' asks for."""
        if self._queue is None:
            compiled = _compile(self._path, replace(self.info.settings, hint="throughput"))
            self._queue = _module().AsyncInferQueue(compiled)  # 0: the number that the hint asks for
        images = feed(images, self.info)
        for _ in range(count):
            self._queue.start_async([images], share_inputs=True)
        self._queue.wait_all()


class _Request:
    """An infer request that reads the caller's memory, and whose results are its own memory."""

    def __init__(self, compiled: Any, info: EngineInfo) -> None:
        self._info, self._request = info, compiled.create_infer_request()
        self._outputs = [_name(port, info.interface.outputs) for port in compiled.outputs]

    def run(self, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Boxes and scores of a batch in the form that the network takes; they last until the next call."""
        request = self._request
        request.set_input_tensor(_module().Tensor(batch, shared_memory=True))
        request.infer(share_inputs=True, share_outputs=True)
        found = (request.get_output_tensor(index).data for index in range(len(self._outputs)))
        return finish(dict(zip(self._outputs, found, strict=True)), self._info)


def _name(port: Any, wanted: Sequence[str]) -> str:
    """Name of the output at a port: OpenVINO keeps the names of all tensors that were merged."""
    return next((name for name in wanted if name in port.names), port.any_name)


def _compile(path: Path, settings: BuildSettings, *, integers: bool = True, pixels: Interface | None = None) -> Any:
    """A network that runs.

    Args:
        integers: False for sums in float.
        pixels: form of the file, for a network that takes uint8 BGR [B, H, W, 3] whatever the file takes.
    """
    options: dict[str, Any] = {
        **({} if integers else OPENVINO_EXACT),
        "PERFORMANCE_HINT": settings.hint.upper(),
        # By default OpenVINO uses bf16 wherever the CPU has it, so numbers would differ from machine to machine.
        "INFERENCE_PRECISION_HINT": settings.precision,
    }
    if settings.threads:
        options["INFERENCE_NUM_THREADS"] = settings.threads
    core = _module().Core()
    if pixels is None or pixels.input == "uint8":
        return core.compile_model(path, "CPU", options)
    return core.compile_model(_with_pixels(core.read_model(path)), "CPU", options)


def _with_pixels(model: Any) -> Any:
    """A network of float images, with the steps from pixels to them in front."""
    from openvino.preprocess import ColorFormat, PrePostProcessor

    ov = _module()
    steps = PrePostProcessor(model)
    given = steps.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    given.set_color_format(ColorFormat.BGR)
    steps.input().model().set_layout(ov.Layout("NCHW"))
    steps.input().preprocess().convert_element_type(ov.Type.f32).convert_color(ColorFormat.RGB).scale(255.0)
    return steps.build()


def _text(value: Any) -> str:
    return str(getattr(value, "value", value))


def _module() -> Any:
    try:
        return load_openvino()
    except ImportError as error:
        raise RuntimeMissing("OpenVINO is not installed: pip install openvino") from error
