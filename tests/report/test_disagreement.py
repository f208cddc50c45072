"""Detections are matched, and what differs is counted and said."""

from __future__ import annotations

import numpy as np
import pytest

from yolov6core.report.disagreement import NONE, in_words, iou, most_different, pair_up


def boxes(*rows: tuple[float, float, float]) -> np.ndarray:
    """Boxes of 10 pixels from left, score and class."""
    return np.array([[left, 0, left + 10, 10, score, label] for left, score, label in rows], dtype=float)


def test_overlap():
    assert iou(boxes((0, 1, 0))[:, :4], boxes((0, 1, 0), (5, 1, 0), (20, 1, 0))[:, :4]) == pytest.approx(
        np.array([[1, 1 / 3, 0]])
    )


def test_the_same_detections_do_not_differ():
    found = boxes((0, 0.9, 0), (30, 0.4, 1))
    pairing = pair_up(found, found)
    assert pairing.difference == 0 and pairing.only_first == pairing.only_second == [] and len(pairing.pairs) == 2
    assert in_words(pairing, found, found, ("float", "ptq"), "ab") == "the same objects with the same scores"


def test_scores_of_pairs_and_of_what_only_one_has():
    first, second = boxes((0, 0.9, 0), (30, 0.4, 1)), boxes((1, 0.7, 0), (60, 0.5, 1), (90, 0.25, 1))
    pairing = pair_up(first, second)
    assert pairing.pairs == [(0, 0)] and pairing.only_first == [1] and pairing.only_second == [1]
    assert pairing.difference == pytest.approx(0.2 + 0.4 + 0.5), "detections that nobody sees do not count"
    words = in_words(pairing, first, second, ("float", "ptq"), ["disc", "ring"])
    assert words == "only float: ring 0.40; only ptq: ring 0.50; largest change of a score: disc 0.90 to 0.70"


def test_another_class_is_another_object():
    pairing = pair_up(boxes((0, 0.9, 0)), boxes((0, 0.9, 1)))
    assert pairing.pairs == [] and pairing.difference == pytest.approx(1.8)


def test_each_box_has_one_partner_the_nearest():
    pairing = pair_up(boxes((0, 0.9, 0), (2, 0.8, 0)), boxes((2, 0.8, 0)))
    assert pairing.pairs == [(1, 0)] and pairing.only_first == [0]


def test_a_detection_just_below_the_shown_score_is_a_partner():
    assert pair_up(boxes((0, 0.31, 0)), boxes((0, 0.29, 0))).difference == pytest.approx(0.02)


def test_images_that_differ_come_first_and_equal_ones_never():
    same = boxes((0, 0.9, 0))
    ranked = most_different({1: same, 2: same, 3: same}, {1: same, 2: boxes((0, 0.5, 0))}, limit=5)
    assert [image for image, _ in ranked] == [3, 2]
    assert most_different({1: same}, {1: same}, limit=5) == []
    assert pair_up(NONE, NONE).difference == 0
