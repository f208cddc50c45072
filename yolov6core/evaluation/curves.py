"""Precision, recall and F1 over the confidence threshold, from the detections themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from yolov6core.base.boxes import pairwise_iou
from yolov6core.evaluation.average_precision import trapezoid_area
from yolov6core.evaluation.matching import match

CONFIDENCES = np.linspace(0, 1, 1000)


@dataclass(frozen=True)
class ClassCurves:
    """Curves of the classes that have ground truth.

    Attributes:
        classes: [K] class indices.
        precision, recall, f1: [K, 1000] at the thresholds `CONFIDENCES`, for the first IoU threshold.
        average_precision: [K, T] per IoU threshold, by the official YOLOv6 sampling (see `trapezoid_area`). COCO's
            figures are in `CocoResult`.
    """

    classes: NDArray[np.int64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]
    average_precision: NDArray[np.float64]

    def best(self) -> int:
        """Index into `CONFIDENCES` of the threshold with the highest F1 averaged over the classes."""
        return int(self.f1.mean(axis=0).argmax()) if len(self.classes) else 0


def match_detections(
    detections: NDArray[Any], truth: NDArray[Any], thresholds: Sequence[float] | NDArray[np.float64] = (0.5,)
) -> NDArray[np.bool_]:
    """Whether each detection of one image matches a box of its class, at each IoU threshold: [N, T]. See `match`.

    Args:
        detections: [N, 6] x1, y1, x2, y2, score, class, by descending score.
        truth: [G, 5] class, xyxy.
    """
    overlaps = np.where(detections[:, 5:6] == truth[None, :, 0], _overlaps(detections, truth), -1.0)
    return match(overlaps, thresholds).T >= 0


def class_curves(
    hits: NDArray[np.bool_], scores: NDArray[Any], classes: NDArray[Any], truth_classes: NDArray[Any]
) -> ClassCurves:
    """Curves from the detections of all images together, in any order.

    Args:
        hits: [N, T] from `match_detections`.
        scores, classes: [N] of the same detections.
        truth_classes: [G] class of every ground-truth box.
    """
    present, counts = np.unique(truth_classes.astype(np.int64), return_counts=True)
    order = np.argsort(-scores, kind="stable")
    hits, scores, classes = hits[order], scores[order], classes[order]
    precision, recall = np.zeros((2, len(present), len(CONFIDENCES)))
    average = np.zeros((len(present), hits.shape[1]))
    for k, (label, count) in enumerate(zip(present, counts, strict=True)):
        of_class = classes == label
        if not of_class.any():
            continue
        true = hits[of_class].cumsum(axis=0)
        class_precision = true / np.arange(1, len(true) + 1)[:, None]
        class_recall = true / count
        average[k] = [trapezoid_area(class_recall[:, t], class_precision[:, t]) for t in range(hits.shape[1])]
        # negated because numpy interpolates over ascending positions only; no detection is above the best score
        recall[k] = np.interp(-CONFIDENCES, -scores[of_class], class_recall[:, 0], left=0)
        precision[k] = np.interp(-CONFIDENCES, -scores[of_class], class_precision[:, 0], left=1)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-16)
    return ClassCurves(present, precision, recall, f1, average)


def curves_of(
    detections: Mapping[int, NDArray[Any]], ground_truth: Mapping[str, Any], thresholds: Sequence[float] = (0.5,)
) -> ClassCurves:
    """Curves of a whole data set.

    Args:
        detections: image id to [N, 6] in source pixels, descending score.
        ground_truth: COCO dict; crowd annotations are left out.
    """
    truth = truth_by_image(ground_truth)
    ids = sorted(detections)
    hits = [match_detections(detections[image_id], truth[image_id], thresholds) for image_id in ids]
    found = np.concatenate([np.zeros((0, 6)), *(detections[image_id] for image_id in ids)])
    wanted = np.concatenate([np.zeros((0, 5)), *(truth[image_id] for image_id in ids)])
    hits = np.concatenate([np.zeros((0, len(thresholds)), dtype=bool), *hits])
    return class_curves(hits, found[:, 4], found[:, 5], wanted[:, 0])


def confusion_pairs(
    detections: Mapping[int, NDArray[Any]],
    ground_truth: Mapping[str, Any],
    *,
    min_score: float,
    iou_threshold: float = 0.5,
) -> NDArray[np.int64]:
    """One row [actual class, predicted class] for each match of any two classes, unmatched detection and missed box.

    The number of classes stands for background: the actual class of an unmatched detection, and the predicted class of
    a missed box. The matching is that of `match`, without regard to classes.

    Args:
        detections: image id to [N, 6] in source pixels, descending score.
        ground_truth: COCO dict; crowd annotations are left out.
        min_score: weaker detections do not count.
    """
    truth = truth_by_image(ground_truth)
    background = len(ground_truth["categories"])
    rows = [_confused(found[found[:, 4] >= min_score], truth[i], iou_threshold) for i, found in detections.items()]
    pairs = np.concatenate([np.zeros((0, 2), dtype=np.int64), *rows])
    return np.where(pairs < 0, background, pairs)


def _confused(found: NDArray[Any], truth: NDArray[Any], threshold: float) -> NDArray[np.int64]:
    """[actual, predicted] of one image, -1 for background."""
    (taken,) = match(_overlaps(found, truth), [threshold])
    hit, missed = taken >= 0, np.ones(len(truth), dtype=bool)
    missed[taken[hit]] = False
    actual = np.full(len(found), -1.0)
    actual[hit] = truth[taken[hit], 0]
    actual = np.concatenate((actual, truth[missed, 0]))
    predicted = np.concatenate((found[:, 5], np.full(len(actual) - len(found), -1)))
    return np.stack((actual, predicted), axis=1).astype(np.int64)


def _overlaps(detections: NDArray[Any], truth: NDArray[Any]) -> NDArray[np.float64]:
    """IoU [N, G] of detections [N, 6] and ground truth [G, 5]."""
    if not len(detections) or not len(truth):
        return np.zeros((len(detections), len(truth)))
    boxes = torch.as_tensor(np.asarray(detections[:, :4], dtype=np.float64))
    return pairwise_iou(boxes, torch.as_tensor(np.asarray(truth[:, 1:5], dtype=np.float64))).numpy()


def truth_by_image(ground_truth: Mapping[str, Any]) -> dict[int, NDArray[np.float64]]:
    """Image id to [G, 5] class index (rank of the category id), xyxy in source pixels, without crowds."""
    ids = sorted(category["id"] for category in ground_truth["categories"])
    rank = {category: index for index, category in enumerate(ids)}
    rows: dict[int, list[list[float]]] = {image["id"]: [] for image in ground_truth["images"]}
    for row in ground_truth["annotations"]:
        if not row.get("iscrowd", 0):
            x, y, width, height = row["bbox"]
            rows[row["image_id"]].append([rank[row["category_id"]], x, y, x + width, y + height])
    return {image_id: np.array(found, dtype=np.float64).reshape(-1, 5) for image_id, found in rows.items()}
