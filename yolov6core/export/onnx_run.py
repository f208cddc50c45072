"""Run an exported file without an engine, to check its numbers: all outputs by name.

Values are rounded to integers as the file says and added in float32, so that results are the same on every CPU. Integer
kernels of the CPU are checked with engines.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np

from yolov6core.exchange.interface import Interface
from yolov6core.exchange.onnx_notes import INPUT
from yolov6core.exchange.openvino_module import load_openvino
from yolov6core.exchange.overflow import OPENVINO_EXACT

Runner = Callable[[np.ndarray], dict[str, np.ndarray]]


def open_outputs(source: Path | bytes, dialect: str, *, integers: bool = False) -> Runner:
    """Open a file in OpenVINO for its own dialect and in ONNX Runtime for all others.

    Args:
        source: a file or its bytes.
        dialect: of the file.
        integers: use integer kernels, as engines do.

    Returns: function from the input of the file to its outputs by name.
    """
    return (_open_openvino if dialect == "openvino" else _open_onnxruntime)(source, integers=integers)


def open_detector(path: Path, dialect: str) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Open a file of `write_traced` with any interface, without integer kernels.

    Returns: function from images [B, 3, H, W] float32 RGB in 0..1 to boxes [B, A, 4] and scores [B, A, C], float32.
    """
    import onnx

    interface = Interface.of(onnx.load(path))
    run = open_outputs(path, dialect)

    def detect(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        height, width = images.shape[2:]
        return interface.finish(run(interface.feed(images)), (height, width))

    return detect


def _open_onnxruntime(source: Path | bytes, *, integers: bool) -> Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if not integers:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    # Spinning threads would slow down later work of the process.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    content = source if isinstance(source, bytes) else str(source)
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(fed: np.ndarray) -> dict[str, np.ndarray]:
        # The annotation of `run` also allows sequences and sparse tensors; our files have dense outputs only.
        values = cast("list[np.ndarray]", session.run(names, {INPUT: fed}))
        return dict(zip(names, values, strict=True))

    return run


def _open_openvino(source: Path | bytes, *, integers: bool) -> Runner:
    core = load_openvino().Core()
    model = core.read_model(source)
    # By default OpenVINO uses bf16 on CPUs that have it, so numbers would differ between machines.
    options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    options |= {} if integers else OPENVINO_EXACT
    compiled = core.compile_model(model, "CPU", options)
    request = compiled.create_infer_request()
    # An output also has the names of tensors that OpenVINO found to be equal to it.
    names = [name for output in compiled.outputs for name in output.get_names()]

    def run(fed: np.ndarray) -> dict[str, np.ndarray]:
        result = request.infer([fed], share_outputs=False)
        return {name: result[name] for name in names}

    return run
