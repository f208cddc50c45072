"""An engine with the work before and after it: pictures in, detections in their pixels out."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from yolov6core.base.errors import UserError
from yolov6core.data.loader import shrunk
from yolov6core.data.transforms import Letterbox, chw_rgb, letterbox
from yolov6core.engines.layouts import UnknownLayout
from yolov6core.engines.runtime import Engine, infer_any, lists_detections
from yolov6core.evaluation.evaluator import in_source_pixels
from yolov6core.evaluation.nms import nms

NO_LABELS = np.zeros((0, 5), np.float32)


@dataclass(frozen=True)
class StepTimes:
    """Milliseconds of the work before, in and after the network."""

    pre: float
    inference: float
    post: float


class EngineDetector:
    """Picture -> detections and times. Threads may share one; they wait for each other at the engine."""

    def __init__(
        self,
        engine: Engine,
        names: Sequence[str] = (),
        *,
        score_threshold: float = 0.4,
        iou_threshold: float = 0.45,
        max_detections: int = 300,
        multi_label: bool = False,
        nearest: bool = True,
    ) -> None:
        """Args:
        names: of the classes; a class without a name is called by its number.
        score_threshold, iou_threshold, max_detections, multi_label: see `nms`.
        nearest: see `transforms.fitted_size`; True for single pictures, False as data sets are evaluated.
        """
        self.engine, self.names = engine, tuple(names)
        self.score_threshold, self.iou_threshold = score_threshold, iou_threshold
        self.max_detections, self.multi_label, self.nearest = max_detections, multi_label, nearest
        height, width = engine.info.input_shape[2:]
        self.size = (height, width)
        # A suppression that saw the best class of each anchor alone lists no box twice.
        self.repeated = lists_detections(engine.info) and engine.info.interface.nms_classes == "all"
        self.inside = shrunk(self.size, engine.info.interface.shrink)
        self._turn = threading.Lock()

    def __call__(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], StepTimes]:
        """uint8 BGR [h, w, 3] to detections [N, 6] in its pixels (see `nms`).

        Raises:
            UserError: the engine's values are not those of its layout, such as scores above 1.
        """
        started = time.perf_counter()
        batch, geometry = self.network_input(image)
        prepared = time.perf_counter()
        boxes, scores = self._inferred(batch)
        inferred = time.perf_counter()
        found = self.detections(boxes[0], scores[0], geometry)
        ended = time.perf_counter()
        return found, StepTimes(1000 * (prepared - started), 1000 * (inferred - prepared), 1000 * (ended - inferred))

    def several(self, images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        """Detections [N, 6] of each picture, in batches of what the engine takes. Raises: see `__call__`."""
        size = self._batch_size()
        found: list[NDArray[np.float32]] = []
        for start in range(0, len(images), size):
            inputs, places = zip(*map(self.network_input, images[start : start + size]), strict=True)
            boxes, scores = self._inferred(np.concatenate(inputs))
            found += [self.detections(*rows) for rows in zip(boxes, scores, places, strict=True)]
        return found

    def _batch_size(self) -> int:
        batch = self.engine.info.input_shape[0]
        return self.engine.info.settings.max_batch if batch == -1 else batch

    def _inferred(self, batch: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Boxes and scores of a batch. Engines keep memory of their own for a call, so they run one at a time."""
        try:
            with self._turn:
                return infer_any(self.engine, batch)
        except UnknownLayout as error:
            raise UserError(f"the engine cannot be read: {error}") from None

    def network_input(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], Letterbox]:
        """The letterboxed picture as a batch [1, 3, H, W], and where it lies in it."""
        picture, _, geometry = letterbox(image, NO_LABELS, size=self.size, inside=self.inside, nearest=self.nearest)
        # As `transforms.network_input` divides, without waking torch's threads for one picture.
        return np.divide(chw_rgb(picture)[None], np.float32(255), dtype=np.float32), geometry

    def detections(
        self, boxes: NDArray[np.float32], scores: NDArray[np.float32], geometry: Letterbox
    ) -> NDArray[np.float32]:
        """Boxes [A, 4] and scores [A, C] of the network input as detections [N, 6] of the picture."""
        if self.repeated and not self.multi_label:
            scores = best_classes(boxes, scores)
        found = nms(
            boxes,
            scores,
            score_threshold=self.score_threshold,
            iou_threshold=self.iou_threshold,
            max_detections=self.max_detections,
            multi_label=self.multi_label,
        )
        return in_source_pixels(found, geometry)

    def name(self, label: int) -> str:
        """Of a class; its number where there are no names."""
        return self.names[label] if label < len(self.names) else str(label)


def best_classes(boxes: NDArray[np.float32], scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scores [K, C] of listed detections with only the best class of each box [K, 4], as anchors are read.

    A suppression in the graph lists a box once for every class that it passes.
    """
    best = scores.max(axis=1, initial=0.0)
    order = np.argsort(-best, kind="stable")
    _, first = np.unique(boxes[order], axis=0, return_index=True)
    kept = np.zeros_like(scores)
    rows = order[first]
    kept[rows] = scores[rows]
    return kept
