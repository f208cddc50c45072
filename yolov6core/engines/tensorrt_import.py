"""Import of `tensorrt` or `tensorrt_rtx`, and one logger for the whole process."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import logging
from functools import cache
from pathlib import Path
from typing import Any

import torch

from yolov6core.engines.runtime import RuntimeMissing

logger = logging.getLogger(__name__)
RTX_LIBRARIES = ("libtensorrt_rtx.so", "libtensorrt_onnxparser_rtx.so")
RTX_CARRIER = "onnxruntime_ep_nv_tensorrt_rtx"
"""A package on PyPI that contains TensorRT-RTX's shared libraries; the bindings come without them."""
INSTALL = {
    "tensorrt": "pip install 'yolov6-quant[tensorrt-cu12]' (or -cu13, as the driver allows)",
    "tensorrt_rtx": "pip install 'yolov6-quant[tensorrt-rtx]'",
}
HARMLESS = ("Converting conv activation scales", "Converting conv weight scales")
"""Warnings, two for each convolution, that float16 scales are used as float32."""
_kept_libraries: list[ctypes.CDLL] = []


@cache
def import_tensorrt(flavour: str) -> Any:
    """The module `tensorrt` or `tensorrt_rtx`.

    Raises:
        RuntimeMissing: not installed, with the command that installs it.
    """
    try:
        if flavour == "tensorrt":
            return importlib.import_module("tensorrt")
        _preload_rtx()
        return importlib.import_module("tensorrt_rtx_bindings")
    except (ImportError, OSError) as error:
        raise RuntimeMissing(f"{flavour} is not installed ({error}): {INSTALL[flavour]}") from error


def _preload_rtx() -> None:
    """Load the shared libraries by path, so that the bindings find them without LD_LIBRARY_PATH."""
    spec = importlib.util.find_spec(RTX_CARRIER)  # does not import it: that would register it with ONNX Runtime
    if spec is None or not spec.submodule_search_locations:
        return  # the libraries may lie on the system's own search path
    folder = Path(spec.submodule_search_locations[0])
    for name in RTX_LIBRARIES:
        for path in sorted(folder.glob(name + "*"))[:1]:
            _kept_libraries.append(ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL))


@cache
def process_logger(flavour: str) -> Any:
    """The only logger of the process: TensorRT keeps the first one it sees, so a second one would stay silent.

    `lines` holds all messages since the last `lines.clear()`; warnings and errors also go to Python's logging.
    """
    trt = import_tensorrt(flavour)
    levels = {
        trt.ILogger.Severity.INTERNAL_ERROR: logging.ERROR,
        trt.ILogger.Severity.ERROR: logging.ERROR,
        trt.ILogger.Severity.WARNING: logging.WARNING,
    }

    class Collector(trt.ILogger):
        def __init__(self) -> None:
            super().__init__()
            self.lines: list[str] = []
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            self.lines.append(message)
            level = levels.get(severity)
            if level == logging.ERROR:
                self.errors.append(message)
            if level is not None and not any(text in message for text in HARMLESS):
                logger.log(level, "%s: %s", flavour, message)

    return Collector()


@cache
def load_plugins(flavour: str) -> None:
    """Register NVIDIA's plugins with TensorRT, once a process: EfficientNMS_TRT is one. TensorRT-RTX has none."""
    if flavour != "tensorrt":
        return
    if not import_tensorrt(flavour).init_libnvinfer_plugins(process_logger(flavour), ""):
        logger.warning(
            "TensorRT's plugins cannot be registered, so that files with export.nms efficient_nms cannot be built or "
            "run: is libnvinfer_plugin installed in the same version?"
        )


def cuda_device() -> str:
    """Name of the GPU in use: the first that CUDA_VISIBLE_DEVICES leaves. Raises RuntimeMissing where there is none."""
    if not torch.cuda.is_available():
        raise RuntimeMissing("no CUDA device is visible here; TensorRT needs an NVIDIA GPU and its driver")
    return torch.cuda.get_device_name(0)
