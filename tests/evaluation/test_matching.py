"""The matcher follows COCO's rule, and matches of a class keep the order of images and scores."""

from __future__ import annotations

import numpy as np
import pytest

from yolov6core.evaluation.matching import match, match_classes


def test_rule_by_hand() -> None:
    thresholds = np.array([0.5, 0.7])
    yes = np.array([True, True])
    overlaps = np.array([[0.6, 0.8], [0.9, 0.75], [0.9, 0.75]])
    assert match(overlaps, thresholds).tolist() == [[1, 0, -1]] * 2
    # a ground truth that counts comes before an ignored one of more overlap
    assert match(overlaps[:1], thresholds, ignored=np.array([False, True])).tolist() == [[0], [1]]
    # crowds take any number of detections
    assert match(overlaps, thresholds, ignored=yes, crowd=yes).tolist() == [[1, 0, 0]] * 2
    # of equal overlaps the last one
    assert match(np.array([[0.6, 0.6, 0.6]] * 2), [0.5]).tolist() == [[2, 1]]
    # a negative overlap forbids the pair; a threshold of 1 allows for rounding
    assert match(np.array([[-1.0, 1 - 1e-12]]), [1.0]).tolist() == [[1]]


def test_nothing_to_match() -> None:
    assert match(np.zeros((0, 3)), [0.5, 0.7]).shape == (2, 0)
    assert match(np.zeros((2, 0)), [0.5]).tolist() == [[-1, -1]]


def plain_match(overlaps: np.ndarray, threshold: float, ignored: np.ndarray, crowd: np.ndarray) -> list[int]:
    """The rule in plain loops, as the COCO evaluation describes it."""
    used, taken = set(), []
    for row in overlaps:
        best = -1
        for truth in sorted(range(len(row)), key=lambda i: bool(ignored[i])):
            if truth in used or row[truth] < threshold:
                continue
            if best >= 0 and (ignored[truth] and not ignored[best] or row[truth] < row[best]):
                continue
            best = truth
        taken.append(best)
        if best >= 0 and not crowd[best]:
            used.add(best)
    return taken


@pytest.mark.parametrize("seed", range(20))
def test_any_overlaps_match_as_in_plain_loops(seed) -> None:
    rng = np.random.default_rng(seed)
    overlaps = rng.integers(-2, 20, (int(rng.integers(1, 15)), int(rng.integers(1, 8)))) / 20  # many ties
    crowd = rng.random(overlaps.shape[1]) < 0.2
    ignored = crowd | (rng.random(overlaps.shape[1]) < 0.3)
    thresholds = [0.3, 0.5, 0.75]
    expected = [plain_match(overlaps, threshold, ignored, crowd) for threshold in thresholds]
    assert match(overlaps, thresholds, ignored=ignored, crowd=crowd).tolist() == expected


def truth(*rows: tuple[int, int, list[float], int]) -> dict:
    """COCO dict of (image id, category id, xywh, crowd)."""
    return {
        "images": [{"id": image} for image in (30, 10, 20)],
        "categories": [{"id": 9, "name": "b"}, {"id": 4, "name": "a"}],
        "annotations": [
            {"image_id": image, "category_id": label, "bbox": box, "area": box[2] * box[3], "iscrowd": crowd}
            for image, label, box, crowd in rows
        ],
    }


def test_matches_of_classes() -> None:
    square = [0.0, 0.0, 10.0, 10.0]
    ground_truth = truth(
        (10, 4, square, 0), (30, 4, square, 0), (30, 4, [50.0, 0.0, 40.0, 40.0], 1), (20, 9, square, 0)
    )
    hit, miss, inside = [0, 0, 10, 10, 0.5, 0], [70, 70, 90, 90, 0.4, 0], [50, 0, 80, 40, 0.6, 0]
    detections = {30: np.array([hit, inside, miss]), 10: np.array([miss, hit, hit])}
    first, second = match_classes(ground_truth, detections, thresholds=[0.5], limit=2)
    assert first.image.tolist() == [0, 0, 2, 2] and first.rank.tolist() == [0, 1, 0, 1]
    assert first.scores.tolist() == [0.5, 0.5, 0.6, 0.5]
    assert first.matched.tolist() == [[[True, False, True, True]]]
    assert first.ignored.tolist() == [[[False, False, True, False]]]
    assert first.truths.tolist() == [[1, 0, 1]]
    assert second.matched.shape == (1, 1, 0) and second.truths.tolist() == [[0, 1, 0]]


def test_areas_outside_a_range_are_ignored() -> None:
    ground_truth = truth((10, 4, [0.0, 0.0, 10.0, 10.0], 0))
    found = {10: np.array([[0, 0, 10, 10, 0.9, 0], [50, 50, 55, 55, 0.8, 0]])}
    matches, _ = match_classes(ground_truth, found, thresholds=[0.5], area_ranges=[[0, 50], [50, 200]])
    assert matches.truths.tolist() == [[0, 0, 0], [1, 0, 0]]
    assert matches.matched[:, 0].tolist() == [[True, False]] * 2
    assert matches.ignored[:, 0].tolist() == [[True, False], [False, True]]


def test_unknown_classes_are_refused_and_ids_order_images() -> None:
    with pytest.raises(ValueError, match="image 10: class 2 is outside 0..1"):
        list(match_classes(truth(), {10: np.array([[0, 0, 1, 1, 0.5, 2]])}))
    ground_truth = truth((10, 4, [0.0, 0.0, 10.0, 10.0], 0))
    matches, _ = match_classes(ground_truth, {}, image_ids=[30, 10])
    assert matches.truths.tolist() == [[0, 1]]
