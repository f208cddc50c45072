"""The jackknife: mAP with each of several parts of the images left out shows how much of a difference is noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yolov6core.evaluation.average_precision import mean_average_precision
from yolov6core.evaluation.matching import match_classes


def map_without_parts(
    ground_truth: Mapping[str, Any], detections: Mapping[int, NDArray[Any]], *, parts: int = 10
) -> list[float]:
    """mAP50:95 without the images at positions p, p + `parts`, p + 2 `parts`, .. for each p below `parts`.

    All parts share one matching.

    Args:
        ground_truth: COCO dict with `images`, `annotations`, `categories`.
        detections: image id to [N, 6] x1, y1, x2, y2, score, class (position among the ascending category ids).
        parts: reduced to the number of images if larger.

    Returns: `parts` values in 0..1, -1 where no ground truth is left; an empty list for fewer than two images.

    Raises:
        ValueError: a detection has an unknown class.
    """
    matches, images = list(match_classes(ground_truth, detections)), len(ground_truth["images"])
    parts = min(parts, images) if images > 1 else 0
    return [mean_average_precision(matches, np.arange(images) % parts != part) for part in range(parts)]
