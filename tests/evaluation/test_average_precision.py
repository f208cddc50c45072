"""Both samplings of the precision-recall curve, with numbers to check by hand."""

from __future__ import annotations

import numpy as np
import pytest

from yolov6core.evaluation.average_precision import (
    RECALLS,
    envelope,
    mean_average_precision,
    precision_at_recalls,
    trapezoid_area,
)
from yolov6core.evaluation.matching import match_classes

# hit, miss, hit among four ground truths
RECALL, PRECISION = np.array([0.25, 0.25, 0.5]), np.array([1.0, 0.5, 2 / 3])


def test_the_envelope_never_rises() -> None:
    assert envelope(PRECISION).tolist() == [1.0, 2 / 3, 2 / 3]
    assert envelope(np.zeros((2, 0))).shape == (2, 0)


def test_coco_takes_the_detection_that_reaches_a_recall() -> None:
    precision, positions = precision_at_recalls(RECALL[None], PRECISION[None])
    assert precision[0].tolist() == [1.0] * 26 + [2 / 3] * 25 + [0.0] * 50
    assert positions[0].tolist() == [0] * 26 + [2] * 25 + [3] * 50
    nothing, positions = precision_at_recalls(np.zeros((2, 0)), np.zeros((2, 0)))
    assert nothing.shape == (2, len(RECALLS)) and not nothing.any() and not positions.any()


def test_trapezoids_follow_straight_lines() -> None:
    # 1 up to recall 0.25, where it falls to 2/3 at once; the sample at 0.25 is the lower end; then down within 0.01
    expected = 0.24 + 0.01 * (1 + 2 / 3) / 2 + 0.25 * 2 / 3 + 0.01 * (2 / 3) / 2
    assert trapezoid_area(RECALL, PRECISION) == pytest.approx(expected)
    assert trapezoid_area(np.array([1.0]), np.array([1.0])) == pytest.approx(1.0)


def test_the_mean_is_over_classes_with_ground_truth_in_the_images_kept() -> None:
    box = {"bbox": [0.0, 0.0, 10.0, 10.0], "area": 100.0}
    ground_truth = {
        "images": [{"id": 1}, {"id": 2}, {"id": 3}],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [box | {"image_id": image, "category_id": label} for image, label in ((1, 1), (2, 1), (2, 2))],
    }
    matches = list(match_classes(ground_truth, {1: np.array([[0, 0, 10, 10, 0.9, 0]])}))
    assert mean_average_precision(matches, np.array([True, False, False])) == 1.0
    assert mean_average_precision(matches, np.array([True, True, False])) == pytest.approx((51 / 101 + 0) / 2)
    assert mean_average_precision(matches, np.array([False, False, True])) == -1.0
