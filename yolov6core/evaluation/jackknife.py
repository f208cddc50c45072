"""How much of a difference in mAP is noise: mAP with each of several parts of the images left out (the jackknife)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from yolov6core.evaluation.coco_match import match

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
MAX_DETECTIONS = 100


@dataclass(frozen=True)
class Matches:
    """Detections of one class in order of images, then score; T thresholds, N detections, I images."""

    image: NDArray[np.int64]
    """[N] position of the image."""
    score: NDArray[np.float64]
    hit: NDArray[np.bool_]
    """[T, N] matched with a ground truth."""
    ignored: NDArray[np.bool_]
    """[T, N] matched with a crowd, which counts neither way."""
    truths: NDArray[np.int64]
    """[I] ground truths that count."""


def map_without_parts(ground_truth: Mapping, detections: Mapping[int, NDArray], *, parts: int = 10) -> list[float]:
    """mAP50:95 with every `parts`-th image left out, beginning with the first, the second, ...; matched only once.

    Args:
        ground_truth: COCO dict with `images`, `annotations`, `categories`.
        detections: image id to [N, 6] x1, y1, x2, y2, score, class (position among the ascending category ids).
        parts: at most the number of images.

    Returns: `parts` values in 0..1, -1 where nothing is left to find; none where there are fewer images than two.
    """
    matches, images = match_all(ground_truth, detections), len(ground_truth["images"])
    parts = min(parts, images) if images > 1 else 0
    return [mean_ap(matches, np.arange(images) % parts != part) for part in range(parts)]


def match_all(ground_truth: Mapping, detections: Mapping[int, NDArray]) -> list[Matches]:
    """Matches of every class, by ascending category id; images in order of their ids. Arguments as above."""
    ids = sorted(image["id"] for image in ground_truth["images"])
    classes = sorted(category["id"] for category in ground_truth["categories"])
    truths: dict[tuple[int, int], list[dict]] = {}
    for row in ground_truth["annotations"]:
        truths.setdefault((row["image_id"], row["category_id"]), []).append(row)
    return [_match_class(ids, truths, detections, category, label) for label, category in enumerate(classes)]


def _match_class(
    ids: list[int],
    truths: Mapping[tuple[int, int], list[dict]],
    detections: Mapping[int, NDArray],
    category: int,
    label: int,
) -> Matches:
    from pycocotools import mask

    images, scores, hits, ignores, counts = [], [], [], [], []
    for position, image_id in enumerate(ids):
        rows = truths.get((image_id, category), [])
        crowd = np.array([bool(row["iscrowd"]) for row in rows], dtype=bool)
        counts.append(int((~crowd).sum()))
        found = np.asarray(detections.get(image_id, ()), dtype=np.float64).reshape(-1, 6)
        found = found[found[:, 5] == label]
        found = found[np.argsort(-found[:, 4], kind="stable")[:MAX_DETECTIONS]]
        hit, ignored = np.zeros((2, len(IOU_THRESHOLDS), len(found)), dtype=bool)
        if len(found) and rows:
            boxes = np.concatenate((found[:, :2], found[:, 2:4] - found[:, :2]), axis=1)
            overlaps = np.asarray(mask.iou(boxes, np.array([row["bbox"] for row in rows], np.float64), crowd))
            hit, ignored = match(overlaps, IOU_THRESHOLDS, ignored=crowd, crowd=crowd)
        images.append(np.full(len(found), position))
        scores.append(found[:, 4])
        hits.append(hit)
        ignores.append(ignored)
    return Matches(
        np.concatenate(images), np.concatenate(scores), np.hstack(hits), np.hstack(ignores), np.array(counts)
    )


def mean_ap(matches: list[Matches], kept: NDArray[np.bool_]) -> float:
    """mAP50:95 of the images that are kept [I], over the classes with ground truth there; -1 where there is none."""
    found = [_ap(entry, kept) for entry in matches if entry.truths[kept].sum()]
    return float(np.mean(found)) if found else -1.0


def _ap(entry: Matches, kept: NDArray[np.bool_]) -> float:
    """Average precision at 101 recalls, mean over the thresholds; COCO's definition."""
    inside = np.flatnonzero(kept[entry.image])
    inside = inside[np.argsort(-entry.score[inside], kind="stable")]
    counting = ~entry.ignored[:, inside]
    right = np.cumsum(entry.hit[:, inside] & counting, axis=1)
    seen = np.cumsum(counting, axis=1)
    precision = right / np.maximum(seen, np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = right / entry.truths[kept].sum()
    values = np.zeros((len(IOU_THRESHOLDS), len(RECALLS)))
    for row, reached, best in zip(values, recall, precision, strict=True):
        positions = np.searchsorted(reached, RECALLS, side="left")
        row[positions < len(best)] = best[positions[positions < len(best)]]
    return float(values.mean())
