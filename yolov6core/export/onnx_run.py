"""Run an exported file as it stands, to judge its numbers: no engine, no sidecar, every output by name.

Values are rounded to integers as the file says and added in float32, so that a file is judged alike on every CPU. What
the CPU's integer kernels make of it is the engine's matter.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from yolov6core.engines.cpu import OPENVINO_EXACT
from yolov6core.engines.interface import Interface
from yolov6core.engines.onnx_notes import INPUT

Runner = Callable[[np.ndarray], dict[str, np.ndarray]]


def open_outputs(source: Path | bytes, dialect: str, *, integers: bool = False) -> Runner:
    """OpenVINO reads its own dialect, ONNX Runtime all others, both without integer kernels.

    Args:
        source: a file or its bytes.
        integers: let the runtime use its integer kernels, as engines do.

    Returns: what the file's input takes to its outputs by name.
    """
    return (_openvino if dialect == "openvino" else _onnxruntime)(source, integers=integers)


def open_detector(path: Path, dialect: str) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Images [B, 3, H, W] float32 RGB in 0..1 to boxes [B, A, 4] and scores [B, A, C], for any file of ours."""
    import onnx

    interface = Interface.of(onnx.load(path))
    run = open_outputs(path, dialect)
    return lambda images: interface.finish(run(interface.feed(images)), images.shape[2:])


def _onnxruntime(source: Path | bytes, *, integers: bool) -> Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if not integers:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    # Threads that spin would slow down whatever runs next in the process.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    content = source if isinstance(source, bytes) else str(source)
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda fed: dict(zip(names, session.run(names, {INPUT: fed}), strict=True))


def _openvino(source: Path | bytes, *, integers: bool) -> Runner:
    import openvino

    core = openvino.Core()
    model = core.read_model(source)
    # Left to itself OpenVINO takes bf16 wherever the CPU has it, so numbers would differ from machine to machine.
    options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    options |= {} if integers else OPENVINO_EXACT
    compiled = core.compile_model(model, "CPU", options)
    request = compiled.create_infer_request()
    # An output can have the names of tensors that OpenVINO found to be the same, too.
    names = [name for output in compiled.outputs for name in output.get_names()]

    def run(fed: np.ndarray) -> dict[str, np.ndarray]:
        result = request.infer([fed], share_outputs=False)
        return {name: result[name] for name in names}

    return run
