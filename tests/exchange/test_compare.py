"""Distances between the outputs of two engines, and between two lists of detections."""

from __future__ import annotations

import numpy as np
import pytest

from yolov6core.exchange.compare import compare_outputs, detection_rows, differing_rows


def outputs(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.random((1, 5, 4), np.float32) * 64, rng.random((1, 5, 3), np.float32)


def test_equal_outputs_differ_by_nothing():
    found = compare_outputs([outputs(0), outputs(1)], [outputs(0), outputs(1)])
    assert set(found) == {"boxes_mean", "boxes_max", "scores_mean", "scores_max", "relative_l2"}
    assert set(found.values()) == {0.0}


def test_one_value_of_one_image_is_seen():
    boxes, scores = outputs(1)
    changed = boxes.copy()
    changed[0, 2, 1] += 8.0
    found = compare_outputs([outputs(0), (changed, scores)], [outputs(0), (boxes, scores)])
    assert found["boxes_max"] == pytest.approx(8.0, abs=1e-5)
    assert found["boxes_mean"] == pytest.approx(8.0 / 40, abs=1e-6)
    assert found["scores_max"] == 0.0
    norm = np.linalg.norm(np.stack([outputs(0)[0], boxes]))
    assert found["relative_l2"] == pytest.approx(8.0 / norm, rel=1e-5), "over all images together"


def test_the_larger_relative_error_counts():
    boxes, scores = outputs(0)
    found = compare_outputs([(boxes * 1.01, scores * 1.1)], [(boxes, scores)])
    assert found["relative_l2"] == pytest.approx(0.1, rel=1e-4)
    zeros = np.zeros_like(scores)
    assert np.isfinite(compare_outputs([(boxes, zeros)], [(boxes, zeros)])["relative_l2"]), "nothing to be relative to"


def test_only_detections_that_count_are_rows():
    files = {
        "num_dets": np.array([[0], [2]], np.int32),
        "boxes": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
        "scores": np.array([[0.9, 0.8, 0.7], [0.6, 0.5, 0.4]], np.float32),
        "classes": np.array([[0, 1, 2], [2, 1, 0]], np.int32),
    }
    assert detection_rows(files, 0).shape == (0, 6)
    rows = detection_rows(files, 1)
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, np.array([[12, 13, 14, 15, 0.6, 2], [16, 17, 18, 19, 0.5, 1]], np.float32))


def test_detections_are_compared_to_the_last_bit_in_any_order():
    rows = np.random.default_rng(0).random((4, 6), np.float32)
    assert differing_rows(rows, rows[::-1]) == 0
    assert differing_rows(rows, rows[:3]) == differing_rows(rows[:3], rows) == 1
    moved = rows.copy()
    moved[1, 0] = np.nextafter(moved[1, 0], np.float32(2))
    assert differing_rows(moved, rows) == 1
    assert differing_rows(np.concatenate((rows, rows[:1])), rows) == 1, "a row that is there twice counts twice"
    assert differing_rows(rows[:0], rows) == 4
