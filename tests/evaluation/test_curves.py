"""Matching and curves with numbers to check by hand."""

from __future__ import annotations

import numpy as np
import pytest

from yolov6core.evaluation.curves import (
    CONFIDENCES,
    class_curves,
    confusion_pairs,
    curves_of,
    match_detections,
    truth_by_image,
)


def test_each_box_is_found_once_by_the_best_score() -> None:
    truth = np.array([[0, 0, 0, 10, 10], [1, 20, 20, 30, 30]], dtype=float)
    detections = np.array(
        [
            [0, 0, 10, 9, 0.9, 0],
            [0, 0, 10, 10, 0.8, 0],  # the better fit comes second: the box is taken
            [20, 20, 30, 30, 0.7, 0],  # right place, wrong class
            [20, 20, 30, 36, 0.6, 1],  # IoU 0.625
        ]
    )
    hits = match_detections(detections, truth, (0.5, 0.75))
    assert hits.tolist() == [[True, True], [False, False], [False, False], [True, False]]
    assert match_detections(detections[:0], truth).shape == (0, 1)
    assert not match_detections(detections, truth[:0]).any()


def test_curves_of_one_class_by_hand() -> None:
    """Scores 0.8 (hit), 0.6 (miss), 0.4 (hit) with 4 boxes."""
    hits = np.array([[False], [True], [True]])
    curves = class_curves(hits, np.array([0.6, 0.8, 0.4]), np.zeros(3), np.zeros(4))

    def at(confidence: float) -> tuple[float, float, float]:
        i = int(np.abs(CONFIDENCES - confidence).argmin())
        return tuple(float(curve[0, i]) for curve in (curves.precision, curves.recall, curves.f1))

    assert at(0.9) == (1.0, 0.0, 0.0)
    assert at(0.1) == pytest.approx((2 / 3, 0.5, 4 / 7))
    assert at(0.6) == pytest.approx((0.5, 0.25, 1 / 3), abs=2e-3)
    assert CONFIDENCES[curves.best()] <= 0.4


def test_classes_without_detections_count_as_zero() -> None:
    curves = class_curves(np.ones((1, 1), bool), np.array([0.9]), np.array([2.0]), np.array([2.0, 5.0]))
    assert curves.classes.tolist() == [2, 5]
    assert curves.average_precision[:, 0].tolist() == [pytest.approx(0.995, abs=6e-3), 0.0]
    assert not curves.recall[1].any()


def test_nothing_to_measure() -> None:
    curves = class_curves(np.zeros((0, 1), bool), np.zeros(0), np.zeros(0), np.zeros(0))
    assert curves.precision.shape == (0, 1000) and curves.best() == 0


def test_data_set_of_coco_boxes() -> None:
    truth = {
        "images": [{"id": 1}, {"id": 2}],
        "categories": [{"id": 7, "name": "b"}, {"id": 3, "name": "a"}],
        "annotations": [
            {"image_id": 1, "category_id": 7, "bbox": [0, 0, 10, 10]},
            {"image_id": 2, "category_id": 3, "bbox": [0, 0, 10, 10], "iscrowd": 1},
        ],
    }
    boxes = truth_by_image(truth)
    assert boxes[1].tolist() == [[1, 0, 0, 10, 10]] and boxes[2].shape == (0, 5)
    curves = curves_of({1: np.array([[0, 0, 10, 10, 0.9, 1]]), 2: np.zeros((0, 6))}, truth)
    assert curves.classes.tolist() == [1] and curves.recall[0, 500] == 1.0


def test_confusion_pairs_what_overlaps_whatever_its_class() -> None:
    truth = {
        "images": [{"id": 1}, {"id": 2}],
        "categories": [{"id": 3, "name": "a"}, {"id": 7, "name": "b"}],
        "annotations": [
            {"image_id": 1, "category_id": 3, "bbox": [0, 0, 10, 10]},
            {"image_id": 1, "category_id": 7, "bbox": [50, 50, 10, 10]},
            {"image_id": 2, "category_id": 7, "bbox": [0, 0, 10, 10]},
        ],
    }
    found = {
        1: np.array([[0, 0, 10, 10, 0.9, 1], [0, 0, 10, 9, 0.8, 0], [80, 0, 90, 10, 0.7, 0], [50, 50, 60, 60, 0.1, 1]]),
        2: np.array([[0, 0, 10, 10, 0.9, 1.0]]),
    }
    pairs = confusion_pairs(found, truth, min_score=0.5).tolist()
    # taken for b; the second box finds it used; one on nothing; one below the score, so its object is missed; one right
    assert pairs == [[0, 1], [2, 0], [2, 0], [1, 2], [1, 1]]
    nothing = {1: np.zeros((0, 6)), 2: np.zeros((0, 6))}
    assert confusion_pairs(nothing, truth, min_score=0.5).tolist() == [[0, 2], [1, 2], [1, 2]]
