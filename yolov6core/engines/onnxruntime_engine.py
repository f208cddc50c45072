"""ONNX Runtime on the CPU: fuses Q/DQ into integer convolutions when the file is of dialect 'ort'."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from yolov6core.engines.onnx_export import INPUT, OUTPUTS
from yolov6core.engines.onnx_facts import read_facts, record_engine
from yolov6core.engines.runtime import (
    BuildSettings,
    EngineInfo,
    RuntimeMissing,
    check_images,
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
    """Keep the file as it is and look what ONNX Runtime makes of it.

    The optimized graph is not kept: it is tied to the machine's instruction set and no faster to run.
    """
    facts = read_facts(onnx_path, NAME)
    if settings.precision != "f32":
        raise ValueError(f"ONNX Runtime's CPU kernels are f32, precision is {settings.precision!r}: set it to 'f32'")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_bytes(onnx_path.read_bytes())
    built_by = (NAME, version(), device())
    return record_engine(folder, facts, settings, built_by=built_by, file=FILE, precision="f32", audit=audit(onnx_path))


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


def run_file(path: Path) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Any exported file without an engine around it, node by node as it stands: the judge of what a file says."""
    ort = _module()
    options = _options(ort, threads=0)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: tuple(session.run(list(OUTPUTS), {INPUT: images}))


class OnnxRuntimeEngine:
    """One session with a fixed number of threads."""

    def __init__(self, path: Path, info: EngineInfo) -> None:
        ort = _module()
        self.info = info
        options = _options(ort, info.settings.threads)
        self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def infer(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `runtime.Engine`."""
        boxes, scores = self._session.run(list(OUTPUTS), {INPUT: check_images(images, self.info)})
        return boxes, scores


def _options(ort: Any, threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    # Spinning worker threads would slow down whatever is timed next in the same process.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def _module() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise RuntimeMissing("ONNX Runtime is not installed: pip install onnxruntime") from error
    return onnxruntime
