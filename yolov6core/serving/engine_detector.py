"""An engine with the work before and after it: pictures in, detections in their pixels out."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yolov6core.base.errors import UserError
from yolov6core.data.canvas import Canvas
from yolov6core.data.loader import shrunk
from yolov6core.data.transforms import Letterbox
from yolov6core.engines.layouts import UnknownLayout
from yolov6core.engines.pixels import TakesPixels, float_images
from yolov6core.engines.runtime import Engine, infer_any, lists_detections
from yolov6core.evaluation.evaluator import in_source_pixels
from yolov6core.evaluation.nms import Candidates, candidates, suppressed


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
        self._takes_pixels = isinstance(engine, TakesPixels)
        self._infer = engine.infer_pixels if isinstance(engine, TakesPixels) else partial(infer_any, engine)
        self._turn, self._own = threading.Lock(), threading.local()

    def __call__(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], StepTimes]:
        """uint8 BGR [h, w, 3] to detections [N, 6] in its pixels (see `nms`).

        Raises:
            UserError: the engine's values are not those of its layout, such as scores above 1.
        """
        started = time.perf_counter()
        batch, places = self.network_input([image])
        prepared = time.perf_counter()
        strong, inferred = self._inferred(batch, 1)
        found = self._kept(strong[0], places[0])
        ended = time.perf_counter()
        return found, StepTimes(1000 * (prepared - started), 1000 * (inferred - prepared), 1000 * (ended - inferred))

    def several(self, images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        """Detections [N, 6] of each picture, in batches of what the engine takes. Raises: see `__call__`."""
        batch = self.engine.info.input_shape[0]
        size = self.engine.info.settings.max_batch if batch == -1 else batch
        found: list[NDArray[np.float32]] = []
        for start in range(0, len(images), size):
            part = images[start : start + size]
            pixels, places = self.network_input(part)
            strong, _ = self._inferred(pixels, len(part))
            found += map(self._kept, strong, places)
        return found

    def network_input(self, images: Sequence[NDArray[np.uint8]]) -> tuple[NDArray[Any], list[Letterbox]]:
        """Letterboxed pictures as a batch of the engine, and where they lie in it.

        The batch is uint8 BGR [B, H, W, 3] for engines that take pixels, which is memory of the thread: its next call
        uses it again. For others it is float32 RGB [B, 3, H, W] in 0..1. A fixed batch that is not full has any
        pictures in its last slots.
        """
        count = max(self.engine.info.input_shape[0], len(images))
        canvas: Canvas | None = getattr(self._own, "canvas", None)
        if canvas is None or len(canvas.pixels) < count:
            canvas = self._own.canvas = Canvas(count, self.size, inside=self.inside, nearest=self.nearest)
        places = [canvas.put(slot, image) for slot, image in enumerate(images)]
        pixels = canvas.pixels[:count]
        return pixels if self._takes_pixels else float_images(pixels), places

    def _inferred(self, batch: NDArray[Any], count: int) -> tuple[list[Candidates], float]:
        """What the first `count` pictures of a batch may hold, and when the engine was ready.

        Engines keep memory of their own for a call, so they run one at a time, and what counts is copied meanwhile.
        """
        try:
            with self._turn:
                boxes, scores = self._infer(batch)
                ready = time.perf_counter()
                return [self._strong(boxes[index], scores[index]) for index in range(count)], ready
        except UnknownLayout as error:
            raise UserError(f"the engine cannot be read: {error}") from None

    def detections(
        self, boxes: NDArray[np.float32], scores: NDArray[np.float32], geometry: Letterbox
    ) -> NDArray[np.float32]:
        """Boxes [A, 4] and scores [A, C] of the network input as detections [N, 6] of the picture."""
        return self._kept(self._strong(boxes, scores), geometry)

    def _strong(self, boxes: NDArray[np.float32], scores: NDArray[np.float32]) -> Candidates:
        if self.repeated and not self.multi_label:
            scores = best_classes(boxes, scores)
        return candidates(boxes, scores, score_threshold=self.score_threshold, multi_label=self.multi_label)

    def _kept(self, strong: Candidates, geometry: Letterbox) -> NDArray[np.float32]:
        found = suppressed(strong, iou_threshold=self.iou_threshold, max_detections=self.max_detections)
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
