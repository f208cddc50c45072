"""ONNX Runtime on the CPU: fuses Q/DQ into integer convolutions when the file is of dialect 'ort'."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from yolov6core.base.waiting import SHORT_SPIN, SPIN_COUNT
from yolov6core.engines.cpu import integer_arithmetic
from yolov6core.engines.onnx_facts import read_facts
from yolov6core.engines.onnxruntime_tiles import same_outputs, suit_tiles
from yolov6core.engines.record import Built, engine_info, plain_facts, record_engine
from yolov6core.engines.runtime import (
    BuildSettings,
    EngineInfo,
    RuntimeMissing,
    feed,
    finish,
)

NAME = "onnxruntime"
FILE = "model.onnx"
ERRORS_ONLY = 3


def version() -> str:
    """Version of ONNX Runtime. Raises RuntimeMissing."""
    return _module().__version__


def device() -> str:
    """Always 'CPU': on a GPU this project uses TensorRT."""
    _module()
    return "CPU"


def build(onnx_path: Path, folder: Path, settings: BuildSettings) -> EngineInfo:
    """Copy the file, in a form that suits the CPU, and count the integer convolutions that ONNX Runtime makes of it.

    The optimized graph is not kept: it is bound to the machine's instruction set and runs no faster.
    """
    facts = read_facts(onnx_path, NAME)
    if settings.precision != "f32":
        raise ValueError(f"ONNX Runtime's CPU kernels are f32, precision is {settings.precision!r}: set it to 'f32'")
    plain = onnx_path.read_bytes()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_bytes(_for_tiles(plain, settings.threads) or plain)
    return record_engine(folder, onnx_path, facts, settings, _built(onnx_path, FILE))


def _for_tiles(plain: bytes, threads: int) -> bytes | None:
    """The file in the form for CPUs with AMX; None where that would change nothing or is not proven right here."""
    import onnx

    cpu = integer_arithmetic()
    if "amx_int8" not in cpu.flags or cpu.of(NAME) != "exact":
        return None
    model = onnx.load_from_string(plain)
    if not suit_tiles(model):
        return None
    ort, changed = _module(), model.SerializeToString()
    first, second = (
        ort.InferenceSession(source, _options(ort, threads), providers=["CPUExecutionProvider"])
        for source in (plain, changed)
    )
    return changed if same_outputs(first, second) else None


def _built(onnx_path: Path, file: str) -> Built:
    integer, real = audit(onnx_path)
    return Built((NAME, version(), device()), file, "f32", integer, real)


def audit(onnx_path: Path) -> tuple[list[str], list[str]]:
    """Names of (integer, float) convolutions in the graph that ONNX Runtime runs after its optimisations."""
    import onnx

    ort = _module()
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "optimized.onnx"
        options = _options(ort, threads=1)
        # One level below the machine-specific layout changes, which rename convolutions.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(target)
        ort.InferenceSession(str(onnx_path), options, providers=["CPUExecutionProvider"])
        nodes = onnx.load(target).graph.node
    integer = [node.name for node in nodes if node.op_type in ("QLinearConv", "ConvInteger")]
    real = [node.name for node in nodes if node.op_type in ("Conv", "FusedConv", "ConvTranspose")]
    return integer, real


def load(folder: Path, info: EngineInfo) -> OnnxRuntimeEngine:
    """Open an engine written by `build`."""
    return OnnxRuntimeEngine(folder / info.file, info)


def load_exact(folder: Path, info: EngineInfo) -> OnnxRuntimeEngine:
    """Open an engine that rounds to the same integers and adds them in float32: slow, but exact on every CPU."""
    return OnnxRuntimeEngine(folder / info.file, info, integers=False)


def open_file(path: Path, settings: BuildSettings) -> OnnxRuntimeEngine:
    """Open an ONNX file without building an engine. Raises ValueError where ONNX Runtime refuses it."""
    plain_facts(path)
    facts = read_facts(path, NAME)
    _module()
    try:
        return OnnxRuntimeEngine(path, engine_info(path, facts, settings, _built(path, path.name)))
    except Exception as error:  # ONNX Runtime's errors share no other base class
        raise ValueError(f"ONNX Runtime cannot read {path}: {error}") from None


class OnnxRuntimeEngine:
    """One session with a fixed number of threads."""

    def __init__(self, path: Path, info: EngineInfo, *, integers: bool = True) -> None:
        ort = _module()
        self.info = info
        options = _options(ort, info.settings.threads)
        if not integers:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        elif info.overflowing_convs and integer_arithmetic().of(NAME) == "saturating":
            # Products are then added in pairs in 32 bits: right, but about as slow as float.
            options.add_session_config_entry("session.x64quantprecision", "1")
        self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self._outputs = [output.name for output in self._session.get_outputs()]

    def infer(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `runtime.Engine`."""
        results = self._session.run(self._outputs, {self._input: feed(images, self.info)})
        return finish(dict(zip(self._outputs, results, strict=True)), self.info)

    def stream(self, images: np.ndarray, count: int) -> None:
        """See `runtime.Engine`: calls run one after the other; the threads of the session share each call."""
        for _ in range(count):
            self.infer(images)


def _threads_yield() -> bool:
    """Whether waiting threads give their cores away, as `runtime.waiting` or the user has settled it for torch's."""
    spins = os.environ.get(SPIN_COUNT, "")
    if spins.isdigit():
        return int(spins) <= int(SHORT_SPIN)
    return os.environ.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE"


def _options(ort: Any, threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    # Spinning worker threads would slow down the next candidate that is timed in the same process.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if _threads_yield():
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _module() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise RuntimeMissing("ONNX Runtime is not installed: pip install onnxruntime") from error
    return onnxruntime
