"""OpenCV's DNN module on the CPU: runs plain ONNX files where nothing faster is installed.

It is only for looking at results: its INT8 layers are no faster than its float ones, so no engine is built for it.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from yolov6core.engines.record import Built, engine_info, plain_facts
from yolov6core.engines.runtime import BuildSettings, feed, finish

NAME = "opencv"


def version() -> str:
    """Version of OpenCV."""
    return cv2.__version__


def open_file(path: Path, settings: BuildSettings) -> OpenCvEngine:
    """Open an ONNX file without building an engine.

    Raises:
        ValueError: OpenCV cannot read the file, or has no layer for one of its operators.
    """
    return OpenCvEngine(path, settings)


class OpenCvEngine:
    """A network read by `cv2.dnn`. OpenCV's number of threads is global to the process and is not changed."""

    def __init__(self, path: Path, settings: BuildSettings) -> None:
        built = Built((NAME, version(), "CPU"), path.name, "f32", [], [])
        self.info = engine_info(path, plain_facts(path), settings, built)
        try:
            self._net = cv2.dnn.readNetFromONNX(str(path))
            self._outputs = self._net.getUnconnectedOutLayersNames()
            # Some layers complain only when they first run.
            self.infer(np.zeros([max(side, 1) for side in self.info.input_shape], dtype=np.float32))
        except cv2.error as error:
            raise ValueError(f"OpenCV cannot run {path}: {' '.join(str(error).split())}") from None

    def infer(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `runtime.Engine`."""
        self._net.setInput(feed(images, self.info))
        results = self._net.forward(list(self._outputs))
        return finish(dict(zip(self._outputs, results, strict=True)), self.info)

    def stream(self, images: np.ndarray, count: int) -> None:
        """See `runtime.Engine`."""
        for _ in range(count):
            self.infer(images)
