"""Greedy non-maximum suppression on the CPU, exact and deterministic.

Classes are suppressed one by one instead of being moved apart by a large offset, so coordinates keep their float32
precision; there is no time limit, so a result never depends on the machine.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float32]

_BLOCK = 128


def nms(
    boxes: ArrayLike | torch.Tensor,
    scores: ArrayLike | torch.Tensor,
    *,
    score_threshold: float,
    iou_threshold: float,
    max_detections: int,
    multi_label: bool = True,
    agnostic: bool = False,
) -> Float:
    """Detections of one image.

    Args:
        boxes: [A, 4] xyxy.
        scores: [A, C] in 0..1.
        score_threshold: only scores above it count.
        iou_threshold: a box goes when its IoU with a better one that stays is above it.
        multi_label: every class above the threshold makes a detection of its own; otherwise only the best class.
        agnostic: boxes of different classes suppress each other, too.

    Returns: float32 [N, 6] rows x1, y1, x2, y2, score, class, by descending score (ties in the order of anchors).

    Raises:
        ValueError: shapes do not fit together.
    """
    boxes, scores = as_float32(boxes), as_float32(scores)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.ndim != 2 or len(scores) != len(boxes):
        raise ValueError(f"nms takes boxes [A, 4] and scores [A, C] of one image, got {boxes.shape} and {scores.shape}")
    rows, classes, values = _candidates(scores, score_threshold, multi_label)
    order = np.argsort(-values, kind="stable")
    # Suppression of a prefix is the prefix of the suppression, so usually the best few candidates are all it takes.
    length = max(1024, 4 * max_detections)
    while True:
        best = order[:length]
        kept = best[_suppress(boxes[rows[best]], classes[best], iou_threshold, max_detections, agnostic)]
        if len(kept) >= max_detections or length >= len(order):
            break
        length *= 4
    kept = kept[:max_detections]
    columns = (boxes[rows[kept]], values[kept, None], classes[kept, None].astype(np.float32))
    return np.concatenate(columns, axis=1)


def as_float32(values: ArrayLike | torch.Tensor) -> Float:
    """A tensor on any device, or anything numpy takes, as a float32 array."""
    if isinstance(values, torch.Tensor):
        values = values.detach().float().cpu().numpy()
    return np.asarray(values, dtype=np.float32)


def _candidates(scores: Float, threshold: float, multi_label: bool) -> tuple[NDArray, NDArray, Float]:
    """Anchor, class and score [K] each of everything above the threshold, anchor by anchor."""
    if multi_label and scores.shape[1] > 1:
        rows, classes = np.divmod(np.flatnonzero(scores.ravel() > threshold), scores.shape[1])
        return rows, classes, scores[rows, classes]
    best = scores.max(axis=1, initial=-1.0)
    rows = np.flatnonzero(best > threshold)
    return rows, scores[rows].argmax(axis=1) if len(rows) else rows, best[rows]


def _suppress(boxes: Float, classes: NDArray, threshold: float, limit: int, agnostic: bool) -> NDArray[np.intp]:
    """Ascending positions that stay of boxes [K, 4] given by descending score; at most `limit` per class."""
    if agnostic or len(boxes) == 0:
        return _suppress_class(boxes, threshold, limit)
    groups = np.argsort(classes, kind="stable")
    borders = np.flatnonzero(np.diff(classes[groups])) + 1
    members = np.split(groups, borders)
    return np.sort(np.concatenate([group[_suppress_class(boxes[group], threshold, limit)] for group in members]))


def _suppress_class(boxes: Float, threshold: float, limit: int) -> NDArray[np.intp]:
    """Block by block: against the boxes already kept, then inside the block."""
    kept: list[NDArray[np.intp]] = []
    kept_boxes = boxes[:0]
    for start in range(0, len(boxes), _BLOCK):
        block = boxes[start : start + _BLOCK]
        alive = np.arange(len(block))
        if len(kept_boxes):
            alive = alive[~_overlaps(kept_boxes, block, threshold).any(axis=0)]
        alive = alive[_greedy(_overlaps(block[alive], block[alive], threshold))]
        kept.append(start + alive)
        kept_boxes = np.concatenate((kept_boxes, block[alive]))
        if len(kept_boxes) >= limit:
            break
    return np.concatenate(kept)[:limit] if kept else np.zeros(0, dtype=np.intp)


def _overlaps(first: Float, second: Float, threshold: float) -> NDArray[np.bool_]:
    """[N, M]: IoU above the threshold; float32, 0/0 counts as no overlap."""
    sides = np.minimum(first[:, None, 2:], second[None, :, 2:]) - np.maximum(first[:, None, :2], second[None, :, :2])
    np.maximum(sides, 0, out=sides)
    common = sides[..., 0] * sides[..., 1]
    areas = [(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) for boxes in (first, second)]
    with np.errstate(divide="ignore", invalid="ignore"):
        return common / (areas[0][:, None] + areas[1] - common) > np.float32(threshold)


def _greedy(overlaps: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Positions that stay when each kept box removes the later ones it overlaps.

    Iterates `a box stays unless an earlier one that stays overlaps it` from `all stay`; after n rounds the first n
    boxes are final, and the usual chains end after a few.
    """
    earlier = np.triu(overlaps, 1)
    stays = np.ones(len(overlaps), dtype=bool)
    while True:
        updated = ~earlier[stays].any(axis=0)
        if np.array_equal(updated, stays):
            return np.flatnonzero(stays)
        stays = updated
