"""Agreement is 1 with oneself, falls with every difference, and is bounded by each image's share."""

from __future__ import annotations

import numpy as np
import pytest

from yolov6core.evaluation.agreement import agreement
from yolov6core.evaluation.coco_map import coco_metrics

TRUTH = {
    "images": [{"id": image, "width": 100, "height": 100} for image in (1, 2, 3, 4)],
    "annotations": [],
    "categories": [{"id": 5, "name": "a"}, {"id": 9, "name": "b"}],
}
BOX = np.array([[10, 10, 50, 50, 0.9, 0], [60, 60, 90, 90, 0.6, 1], [5, 5, 9, 9, 0.1, 1]], np.float32)
REFERENCE = {1: BOX, 2: BOX, 3: BOX, 4: BOX[2:]}  # nothing to find on the fourth


def test_agreement_with_oneself_is_whole():
    assert agreement(TRUTH, REFERENCE, REFERENCE) == pytest.approx(1.0)
    assert agreement(TRUTH, {}, REFERENCE) == 1.0


def test_one_failing_image_counts_as_one():
    alarms = np.array([[0, 0, 99, 99, 0.99, label] for label in (0, 1)] * 50, np.float32)
    assert agreement(TRUTH, REFERENCE, REFERENCE | {3: alarms}) == pytest.approx(2 / 3)


def test_every_shift_is_a_loss():
    values = []
    for pixels in (0, 1, 3, 8):
        moved = BOX.copy()
        moved[:, [0, 2]] += pixels
        values.append(agreement(TRUTH, REFERENCE, dict.fromkeys((1, 2, 3), moved)))
    assert values == sorted(values, reverse=True) and values[1] < 1


def test_a_single_image_has_its_coco_map():
    single = {**TRUTH, "images": TRUTH["images"][:1]}
    moved = BOX + np.array([3, 0, 3, 0, 0, 0], np.float32)
    rows = [
        {"id": i + 1, "image_id": 1, "category_id": (5, 9)[int(label)], "iscrowd": 0, "area": float((r - x) * (b - y))}
        | {"bbox": [float(x), float(y), float(r - x), float(b - y)]}
        for i, (x, y, r, b, _, label) in enumerate(BOX[:2])
    ]
    expected = coco_metrics({**single, "annotations": rows}, {1: moved}).stats["map50_95"]
    assert agreement(single, {1: BOX}, {1: moved}) == pytest.approx(expected) and 0.3 < expected < 0.9
