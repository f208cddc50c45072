"""Detection in a Python program: an engine or ONNX file opened in one line, arrays for each picture.

from yolov6core.serving.open_detector import open_detector
found = open_detector("artifacts/engines/qat")(cv2.imread("street.jpg"))
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from yolov6core.engines.runtime import EngineInfo
from yolov6core.serving.engine_detector import EngineDetector
from yolov6core.serving.open_engine import open_any

Picture = NDArray[np.uint8]
"""BGR [h, w, 3], as OpenCV reads files and cameras."""


@dataclass(frozen=True)
class Detections:
    """Objects in one picture, by descending score.

    Attributes:
        boxes: float32 [N, 4], x1, y1, x2, y2 in pixels of the picture.
        scores: float32 [N], in 0..1.
        labels: int64 [N], numbers of the classes.
        names: names of the classes, one an object; the number where a class has no name.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[tuple[NDArray[np.float32], float, str]]:
        """(box [4], score, name) of each object."""
        yield from zip(self.boxes, self.scores.tolist(), self.names, strict=True)


class PictureDetector:
    """Pictures -> detections. Threads may share one: they prepare pictures at once, and take turns at the engine."""

    def __init__(self, detector: EngineDetector) -> None:
        self._detector = detector

    @property
    def info(self) -> EngineInfo:
        """Runtime, precision, input size and more of the engine."""
        return self._detector.engine.info

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes, by number; empty where none are known."""
        return self._detector.names

    @overload
    def __call__(self, pictures: Picture) -> Detections: ...
    @overload
    def __call__(self, pictures: Sequence[Picture]) -> list[Detections]: ...
    def __call__(self, pictures: Picture | Sequence[Picture]) -> Detections | list[Detections]:
        """Detections of one picture, or of each picture of a list, which runs in batches where the engine takes them.

        Args:
            pictures: uint8 BGR [h, w, 3], of any sizes; they stay unchanged.

        Raises:
            ValueError: an array that is no such picture; the message names it.
            UserError: the engine's values are not those of its layout, such as scores above 1.
        """
        if isinstance(pictures, np.ndarray):
            return self(_listed(pictures))[0]
        for number, picture in enumerate(pictures):
            _check(picture, number if len(pictures) > 1 else None)
        return [self._described(rows) for rows in self._detector.several([*map(np.ascontiguousarray, pictures)])]

    def _described(self, rows: NDArray[np.float32]) -> Detections:
        labels = rows[:, 5].astype(np.int64)
        names = tuple(map(self._detector.name, labels.tolist()))
        return Detections(rows[:, :4].copy(), rows[:, 4].copy(), labels, names)


def open_detector(
    path: str | Path,
    *,
    runtime: str = "auto",
    names: Sequence[str] | None = None,
    score_threshold: float = 0.4,
    iou_threshold: float = 0.45,
    max_detections: int = 300,
) -> PictureDetector:
    """Open an engine that `build-trt` made, or an ONNX file, also of YOLOv5, v7, v8, 10 and 11.

    Args:
        path: folder of an engine (`artifacts/engines/qat`), or an .onnx file.
        runtime: for an ONNX file: openvino, onnxruntime, opencv, or auto for the first of them that takes the file.
        names: of the classes, by number; None: those that the file carries.
        score_threshold: weaker detections are left out.
        iou_threshold: the weaker of two boxes of a class goes if they overlap more.
        max_detections: of one picture.

    Raises:
        UserError: there is no such engine or file, or it cannot run here.
        ValueError: a threshold outside 0..1.
    """
    for name, value in (("score_threshold", score_threshold), ("iou_threshold", iou_threshold)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}; give a number from 0 to 1")
    engine = open_any(Path(path), runtime)
    detector = EngineDetector(
        engine,
        engine.info.names if names is None else names,
        score_threshold=score_threshold,
        iou_threshold=iou_threshold,
        max_detections=max_detections,
    )
    return PictureDetector(detector)


def _listed(pictures: NDArray) -> list[Picture]:
    if pictures.ndim == 4:
        raise ValueError("an array of four dimensions is no picture; give a list of pictures: detector(list(array))")
    return [pictures]


def _check(picture: object, number: int | None) -> None:
    """Refuse what is no picture."""
    which = "the picture" if number is None else f"picture {number} of the list"
    if not isinstance(picture, np.ndarray):
        hint = "; cv2.imread gives None for a file that it cannot read" if picture is None else ""
        raise ValueError(f"{which} is {type(picture).__name__}; give a uint8 BGR array [h, w, 3]{hint}")
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise ValueError(
            f"{which} is {picture.dtype} {list(picture.shape)}; give uint8 BGR [h, w, 3]. cv2.cvtColor changes grey "
            "and transparent pictures: COLOR_GRAY2BGR, COLOR_BGRA2BGR"
        )
