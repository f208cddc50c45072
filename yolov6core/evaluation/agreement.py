"""How far a network agrees with another one: its mAP with the other's detections as ground truth, image by image.

On some hundred images a harmless change moves the mAP against labels up as often as down. Against the detections of the
unchanged network every difference is a loss. The mean is taken over single images, so that one on which the changed
network fails altogether counts as one image; in a common mAP its false alarms would stand before the detections of all
others.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from yolov6core.evaluation.jackknife import match_all, mean_ap

MIN_SCORE = 0.3


def agreement(
    ground_truth: Mapping,
    reference: Mapping[int, NDArray],
    detections: Mapping[int, NDArray],
    *,
    min_score: float = MIN_SCORE,
) -> float:
    """mAP50:95 of `detections` against those of `reference` from `min_score` on: mean over images that have such.

    Args:
        ground_truth: COCO dict; its `images` and `categories` are used.
        reference, detections: image id to [N, 6] x1, y1, x2, y2, score, class.

    Returns: 0..1; 1 where the reference has no detection at all.
    """
    matches = match_all(_as_truth(ground_truth, reference, min_score), detections)
    images = np.eye(len(ground_truth["images"]), dtype=bool)
    values = [value for value in (mean_ap(matches, image) for image in images) if value >= 0]
    return float(np.mean(values)) if values else 1.0


def _as_truth(ground_truth: Mapping, detections: Mapping[int, NDArray], min_score: float) -> dict:
    """COCO ground truth of the same images and categories, made of the detections from `min_score` on."""
    classes = sorted(category["id"] for category in ground_truth["categories"])
    rows: list[dict] = []
    for image_id, found in detections.items():
        for left, top, right, bottom, _, label in found[found[:, 4] >= min_score].tolist():
            width, height = right - left, bottom - top
            rows.append(
                {
                    "id": len(rows) + 1,
                    "image_id": image_id,
                    "category_id": classes[int(label)],
                    "bbox": [left, top, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                }
            )
    return {**ground_truth, "annotations": rows}
