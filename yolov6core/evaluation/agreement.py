"""Agreement of a network with another one: its mAP with the other's detections as ground truth, image by image.

On some hundred images a harmless change raises the mAP against labels as often as it lowers it. Against the detections
of the unchanged network every difference is a loss. The result is the mean over single images, so an image on which the
changed network fails counts as one image. In a common mAP its false alarms would precede the detections of all others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yolov6core.evaluation.average_precision import mean_average_precision
from yolov6core.evaluation.matching import match_classes

MIN_SCORE = 0.3


def agreement(
    ground_truth: Mapping[str, Any],
    reference: Mapping[int, NDArray[Any]],
    detections: Mapping[int, NDArray[Any]],
    *,
    min_score: float = MIN_SCORE,
) -> float:
    """mAP50:95 of `detections` against the `reference` detections of at least `min_score`.

    The mean is over the images that have a reference detection of that score.

    Args:
        ground_truth: COCO dict; its `images` and `categories` are used.
        reference, detections: image id to [N, 6] x1, y1, x2, y2, score, class, in source pixels.
        min_score: weaker detections of the reference are left out.

    Returns: 0..1; 1 where the reference has no detection of that score.

    Raises:
        ValueError: a detection has an unknown class.
    """
    matches = list(match_classes(_as_truth(ground_truth, reference, min_score), detections))
    images = np.eye(len(ground_truth["images"]), dtype=bool)
    values = [value for value in (mean_average_precision(matches, image) for image in images) if value >= 0]
    return float(np.mean(values)) if values else 1.0


def _as_truth(
    ground_truth: Mapping[str, Any], detections: Mapping[int, NDArray[Any]], min_score: float
) -> dict[str, Any]:
    """COCO ground truth of the same images and categories, from the detections of at least `min_score`."""
    classes = sorted(category["id"] for category in ground_truth["categories"])
    rows: list[dict[str, Any]] = []
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
