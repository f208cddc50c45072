"""Precision, recall and F1 over the confidence threshold, from the detections themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from yolov6core.boxes import pairwise_iou

CONFIDENCES = np.linspace(0, 1, 1000)
_RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class ClassCurves:
    """Curves of the classes that have ground truth.

    Attributes:
        classes: [K] class indices.
        precision, recall, f1: [K, 1000] at the thresholds `CONFIDENCES`, for the first IoU threshold.
        average_precision: [K, T] area under the 101-point interpolated precision-recall curve, per IoU threshold.
    """

    classes: NDArray[np.int64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]
    average_precision: NDArray[np.float64]

    def best(self) -> int:
        """Index into `CONFIDENCES` of the threshold with the highest F1 averaged over the classes."""
        return int(self.f1.mean(axis=0).argmax()) if len(self.classes) else 0


def match_detections(detections: NDArray, truth: NDArray, thresholds: Sequence[float] = (0.5,)) -> NDArray[np.bool_]:
    """Which detections of one image hit: [N, T].

    In the order given (descending score) each detection takes the best box of its class that is still free.

    Args:
        detections: [N, 6] x1, y1, x2, y2, score, class.
        truth: [G, 5] class, xyxy.
    """
    hits = np.zeros((len(detections), len(thresholds)), dtype=bool)
    if not len(detections) or not len(truth):
        return hits
    boxes = torch.as_tensor(np.asarray(detections[:, :4], dtype=np.float64))
    overlaps = pairwise_iou(boxes, torch.as_tensor(np.asarray(truth[:, 1:5], dtype=np.float64))).numpy()
    overlaps = np.where(detections[:, 5:6] == truth[None, :, 0], overlaps, -1.0)
    for column, threshold in enumerate(thresholds):
        free = overlaps.copy()
        for row in np.flatnonzero(overlaps.max(axis=1) >= threshold):
            box = free[row].argmax()
            if free[row, box] >= threshold:
                hits[row, column] = True
                free[:, box] = -1.0
    return hits


def class_curves(hits: NDArray[np.bool_], scores: NDArray, classes: NDArray, truth_classes: NDArray) -> ClassCurves:
    """Curves from the detections of all images together.

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
        average[k] = [_area(class_recall[:, t], class_precision[:, t]) for t in range(hits.shape[1])]
        # negated because numpy interpolates over ascending positions only; above the best score nothing is found
        recall[k] = np.interp(-CONFIDENCES, -scores[of_class], class_recall[:, 0], left=0)
        precision[k] = np.interp(-CONFIDENCES, -scores[of_class], class_precision[:, 0], left=1)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-16)
    return ClassCurves(present, precision, recall, f1, average)


def curves_of(
    detections: Mapping[int, NDArray], ground_truth: Mapping, thresholds: Sequence[float] = (0.5,)
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
    detections: Mapping[int, NDArray], ground_truth: Mapping, *, min_score: float, iou_threshold: float = 0.5
) -> NDArray[np.int64]:
    """What was taken for what, one row [actual class, predicted class] a box; the number of classes is background.

    In descending score each detection takes the free box, of any class, that it overlaps most, if it reaches the
    threshold. Detections and boxes that are left go with background.

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


def _confused(found: NDArray, truth: NDArray, threshold: float) -> NDArray[np.int64]:
    """[actual, predicted] of one image, -1 for background."""
    free = np.zeros((len(found), len(truth)))
    if free.size:
        boxes = torch.as_tensor(np.asarray(found[:, :4], dtype=np.float64))
        free = pairwise_iou(boxes, torch.as_tensor(np.asarray(truth[:, 1:5], dtype=np.float64))).numpy()
    actual, matched = np.full(len(found), -1), np.zeros(len(truth), dtype=bool)
    for row in np.flatnonzero(free.max(axis=1, initial=0) >= threshold):
        box = free[row].argmax()
        if free[row, box] >= threshold:
            actual[row], matched[box] = truth[box, 0], True
            free[:, box] = 0
    missed = truth[~matched, 0]
    actual = np.concatenate((actual, missed))
    predicted = np.concatenate((found[:, 5], np.full(len(missed), -1)))
    return np.stack((actual, predicted), axis=1).astype(np.int64)


def truth_by_image(ground_truth: Mapping) -> dict[int, NDArray[np.float64]]:
    """Image id to [G, 5] class index (rank of the category id), xyxy in source pixels, without crowds."""
    ids = sorted(category["id"] for category in ground_truth["categories"])
    rank = {category: index for index, category in enumerate(ids)}
    rows: dict[int, list[list[float]]] = {image["id"]: [] for image in ground_truth["images"]}
    for row in ground_truth["annotations"]:
        if not row.get("iscrowd", 0):
            x, y, width, height = row["bbox"]
            rows[row["image_id"]].append([rank[row["category_id"]], x, y, x + width, y + height])
    return {image_id: np.array(found, dtype=np.float64).reshape(-1, 5) for image_id, found in rows.items()}


def _area(recall: NDArray[np.float64], precision: NDArray[np.float64]) -> float:
    """Area under the falling envelope of precision, sampled at 101 recalls, by trapezoids.

    Past the highest recall reached the envelope falls to 0 within one sampling step.
    """
    recall = np.concatenate(([0.0], recall, [recall[-1] + 0.01]))
    precision = np.concatenate(([1.0], precision, [0.0]))
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    sampled = np.interp(_RECALLS, recall, envelope)
    return float(((sampled[1:] + sampled[:-1]) / 2 * np.diff(_RECALLS)).sum())
