"""One evaluation for every runtime: letterboxed batches in, COCO figures out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import length_hint
from time import perf_counter
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from yolov6core.base.progress import tracked
from yolov6core.data.transforms import network_input
from yolov6core.evaluation.coco_map import CocoResult, coco_metrics
from yolov6core.evaluation.nms import as_float32, nms

Predict = Callable[[Tensor], tuple[Any, Any]]
Value = TypeVar("Value")


class Geometry(Protocol):
    """The place of a source image inside the network input."""

    def to_source(self, boxes: NDArray[Any]) -> NDArray[np.float32]:
        """Boxes [n, 4] of network pixels to source pixels, clipped."""
        ...


class Batch(Protocol):
    """Letterboxed images with their ids and geometry."""

    @property
    def images(self) -> Tensor:
        """uint8 RGB [B, 3, H, W]."""
        ...

    @property
    def image_ids(self) -> Sequence[int]:
        """[B] ids in the ground truth."""
        ...

    @property
    def geometry(self) -> Sequence[Geometry]:
        """[B]."""
        ...


class EvaluationData(Protocol):
    """A data set with ground truth, for example `data.dataset.DetectionDataset`."""

    @property
    def names(self) -> Sequence[str]:
        """Class names by class index."""
        ...

    def ground_truth(self) -> Mapping[str, Any]:
        """COCO dict with `images`, `annotations`, `categories`."""
        ...

    def eval_batches(self, *, image_size: tuple[int, int], batch_size: int) -> Iterable[Batch]:
        """Letterboxed batches of the images; `image_size` is (height, width)."""
        ...


@dataclass(frozen=True)
class EvalResult:
    """Figures and detections of one evaluation.

    Attributes:
        stats: the 12 COCO figures in 0..1, see `coco_map.STAT_NAMES`; -1: no ground truth to measure them on.
        per_class: class name to `map50_95` and `map50`, None for classes without ground truth.
        detections: image id to float32 [N, 6] x1, y1, x2, y2, score, class in source pixels, descending score.
        coco: the figures with their precision-recall curves.
        seconds: time spent in `load`, `predict`, `nms` and `coco`.
    """

    stats: dict[str, float]
    per_class: dict[str, dict[str, float | None]]
    detections: dict[int, NDArray[np.float32]]
    coco: CocoResult
    seconds: dict[str, float] = field(compare=False)


@dataclass(frozen=True)
class DetectionLimits:
    """Which detections count in an evaluation, see `nms`."""

    score_threshold: float = 0.03
    iou_threshold: float = 0.65
    max_detections: int = 300


FIELD_LIMITS = DetectionLimits()
"""Limits that the field evaluates by."""


def evaluate(
    predict: Predict,
    dataset: EvaluationData,
    *,
    image_size: tuple[int, int],
    batch_size: int,
    score_threshold: float = 0.03,
    iou_threshold: float = 0.65,
    max_detections: int = 300,
) -> EvalResult:
    """Detect on all images of a data set and compare with its ground truth.

    Args:
        predict: float32 images [B, 3, H, W] in 0..1 to boxes [B, A, 4] xyxy in network pixels and scores [B, A, C];
            tensors or arrays. The last batch may be smaller.
        image_size: (height, width) of the network input.
        score_threshold, iou_threshold, max_detections: see `nms`.

    Raises:
        ValueError: the prediction does not fit the data set.
    """
    seconds = {"load": 0.0, "predict": 0.0, "nms": 0.0, "coco": 0.0}
    detections: dict[int, NDArray[np.float32]] = {}
    suppress = partial(nms, score_threshold=score_threshold, iou_threshold=iou_threshold, max_detections=max_detections)
    batches = dataset.eval_batches(image_size=image_size, batch_size=batch_size)
    count = length_hint(dataset) or None  # of its own images; not asked of those who cannot tell
    batches = tracked(batches, "evaluation", total=count, count=lambda batch: len(batch.image_ids))
    while (batch := _timed(seconds, "load", lambda: next(batches, None))) is not None:
        predicted = _timed(seconds, "predict", lambda images=batch.images: _run(predict, images))
        _check_classes(predicted[1].shape[-1], dataset.names)
        start = perf_counter()
        for image_id, geometry, boxes, scores in zip(batch.image_ids, batch.geometry, *predicted, strict=True):
            detections[image_id] = in_source_pixels(suppress(boxes, scores), geometry)
        seconds["nms"] += perf_counter() - start
    coco = _timed(seconds, "coco", lambda: coco_metrics(dataset.ground_truth(), detections))
    return EvalResult(coco.stats, coco.per_class, detections, coco, seconds)


def in_source_pixels(detections: NDArray[np.float32], geometry: Geometry) -> NDArray[np.float32]:
    """Detections [N, 6] of the network input as detections of the source image, clipped to it."""
    return np.concatenate((geometry.to_source(detections[:, :4]), detections[:, 4:]), axis=1)


def _run(predict: Predict, images: Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    with torch.inference_mode():
        boxes, scores = predict(network_input(images, memory_format=torch.contiguous_format))
    boxes, scores = as_float32(boxes), as_float32(scores)
    shapes: Sequence[int] = (len(images), *boxes.shape[1:2])
    if boxes.ndim != 3 or scores.ndim != 3 or boxes.shape[-1] != 4 or tuple(scores.shape[:2]) != tuple(shapes):
        raise ValueError(f"predict must give boxes [B, A, 4] and scores [B, A, C], gave {boxes.shape}, {scores.shape}")
    return boxes, scores


def _check_classes(count: int, names: Sequence[str]) -> None:
    if count != len(names):
        raise ValueError(f"the model has {count} classes, the data set {len(names)}: {names}")


def _timed(seconds: dict[str, float], name: str, action: Callable[[], Value]) -> Value:
    """The result of the action; its duration is added to `seconds[name]`."""
    start = perf_counter()
    result = action()
    seconds[name] += perf_counter() - start
    return result
