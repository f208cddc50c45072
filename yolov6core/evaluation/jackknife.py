"""The jackknife: mAP with each of several parts of the images left out shows how much of a difference is noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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


def standard_error(without: Sequence[float]) -> float:
    """Standard error of a figure from its values with each of several equal parts left out; 0 for fewer than two.

    For a difference of two networks on the same images, give the differences of their values: the error of the
    difference is far below the errors of the two.
    """
    if len(without) < 2:
        return 0.0
    mean = sum(without) / len(without)
    return math.sqrt((len(without) - 1) / len(without) * sum((value - mean) ** 2 for value in without))
