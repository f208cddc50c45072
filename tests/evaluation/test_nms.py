"""Suppression against a plain greedy loop, and its corner cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from yolov6core.evaluation.nms import nms

OPTIONS = {"score_threshold": 0.1, "iou_threshold": 0.5, "max_detections": 100}


def greedy(boxes, scores, *, score_threshold, iou_threshold, max_detections, multi_label=True, agnostic=False):
    """The definition, box by box."""
    candidates = []
    for anchor, row in enumerate(scores):
        labels = range(len(row)) if multi_label else [int(row.argmax())]
        candidates += [(float(row[label]), anchor, label) for label in labels if row[label] > score_threshold]
    candidates.sort(key=lambda candidate: -candidate[0])
    kept: list[tuple[float, int, int]] = []
    for score, anchor, label in candidates:
        rivals = [other for _, other, other_label in kept if agnostic or label == other_label]
        if all(iou(boxes[anchor], boxes[other]) <= iou_threshold for other in rivals):
            kept.append((score, anchor, label))
    rows = [[*boxes[anchor], score, label] for score, anchor, label in kept[:max_detections]]
    return np.array(rows, dtype=np.float32).reshape(-1, 6)


def iou(a, b) -> float:
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(w, 0) * max(h, 0)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def crowd(anchors: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centres = rng.integers(0, 4, (anchors, 2)) * 40 + rng.normal(0, 5, (anchors, 2))
    sizes = rng.uniform(20, 40, (anchors, 2))
    boxes = np.concatenate((centres - sizes / 2, centres + sizes / 2), axis=1).astype(np.float32)
    return boxes, rng.random((anchors, classes), dtype=np.float32)


@pytest.mark.parametrize("multi_label", [True, False])
@pytest.mark.parametrize("agnostic", [True, False])
@pytest.mark.parametrize(("anchors", "classes", "limit"), [(40, 3, 100), (300, 2, 100), (400, 1, 20), (150, 6, 5)])
def test_equals_the_definition(anchors, classes, limit, multi_label, agnostic) -> None:
    boxes, scores = crowd(anchors, classes, seed=anchors)
    options = OPTIONS | {"max_detections": limit, "multi_label": multi_label, "agnostic": agnostic}
    found = nms(boxes, scores, **options)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, greedy(boxes, scores, **options))


def test_more_candidates_than_the_first_look() -> None:
    """All best candidates are one pile, so the search must go on past its first, short prefix."""
    pile = np.tile(np.array([[10, 10, 50, 50]], np.float32), (3000, 1))
    apart = np.array([[100 * i, 200, 100 * i + 50, 250] for i in range(20)], np.float32)
    scores = np.concatenate((np.linspace(0.9, 0.5, 3000), np.linspace(0.4, 0.3, 20))).astype(np.float32)[:, None]
    found = nms(np.concatenate((pile, apart)), scores, **OPTIONS | {"max_detections": 15})
    assert len(found) == 15 and found[0, 4] == np.float32(0.9)
    np.testing.assert_array_equal(found[1:, :4], apart[:14])


@pytest.mark.parametrize("agnostic", [True, False])
@pytest.mark.parametrize(
    ("anchors", "classes", "limit"), [(700, 5, 3000), (2500, 1, 400), (60, 80, 150), (1500, 2, 60)]
)
def test_thousands_of_candidates_equal_the_definition(anchors, classes, limit, agnostic) -> None:
    """Several parts, crowded classes and many classes; every second score is a tie with the one before."""
    boxes, scores = crowd(anchors, classes, seed=anchors)
    boxes[:, [0, 2]] += np.repeat(np.arange(anchors) % 20, 2).reshape(-1, 2) * 25
    scores.ravel()[1::2] = scores.ravel()[: scores.size // 2 * 2 : 2]
    options = OPTIONS | {"max_detections": limit, "agnostic": agnostic}
    found = nms(boxes, scores, **options)
    assert len(found) > 15
    np.testing.assert_array_equal(found, greedy_arrays(boxes, scores, **options))


def greedy_arrays(boxes, scores, *, score_threshold, iou_threshold, max_detections, agnostic):
    """The definition with one row of overlaps at a time, for larger inputs."""
    anchors, labels = np.nonzero(scores > score_threshold)
    order = np.argsort(-scores[anchors, labels], kind="stable")
    anchors, labels = anchors[order], labels[order]
    corners, areas = boxes[anchors], np.prod(boxes[anchors, 2:] - boxes[anchors, :2], axis=1)
    alive, kept = np.ones(len(order), dtype=bool), []
    for place in range(len(order)):
        if not alive[place]:
            continue
        kept.append(place)
        sides = np.minimum(corners[place, 2:], corners[:, 2:]) - np.maximum(corners[place, :2], corners[:, :2])
        common = np.maximum(sides, 0).prod(axis=1)
        over = common / (areas[place] + areas - common) > np.float32(iou_threshold)
        alive &= ~over | ((labels != labels[place]) & (not agnostic))
    kept = kept[:max_detections]
    values = scores[anchors[kept], labels[kept]]
    return np.concatenate((corners[kept], values[:, None], labels[kept][:, None]), axis=1).astype(np.float32)


def test_negative_thresholds_are_refused() -> None:
    with pytest.raises(ValueError, match="score_threshold is -0.1"):
        nms(np.zeros((1, 4)), np.zeros((1, 1)), **OPTIONS | {"score_threshold": -0.1})


def test_classes_do_not_meet_however_large_the_image() -> None:
    """Separation by adding class * 4096 to coordinates fails here: 4096 px further lies the other class's box."""
    boxes = np.array([[4096, 0, 4196, 100], [0, 0, 100, 100]], np.float32)
    scores = np.array([[0.9, 0], [0, 0.8]], np.float32)
    assert len(nms(boxes, scores, **OPTIONS)) == 2
    # 0.3 px survive only without an offset that eats the fraction's bits
    far = np.array([[20000.25, 0, 20001.25, 1]], np.float32)
    np.testing.assert_array_equal(nms(far, np.eye(1, 80, 79, dtype=np.float32), **OPTIONS)[0, :4], far[0])


def test_ties_keep_the_order_of_anchors() -> None:
    boxes = np.array([[i * 20, 0, i * 20 + 10, 10] for i in range(5)], np.float32)
    found = nms(boxes, np.full((5, 1), 0.5, np.float32), **OPTIONS)
    np.testing.assert_array_equal(found[:, :4], boxes)


def test_thresholds_are_strict() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 5]], np.float32)  # IoU exactly 0.5
    scores = np.array([[0.9], [0.8]], np.float32)
    assert len(nms(boxes, scores, **OPTIONS)) == 2
    assert len(nms(boxes, scores, **OPTIONS | {"iou_threshold": 0.49})) == 1
    assert len(nms(boxes, np.full((2, 1), 0.25, np.float32), **OPTIONS | {"score_threshold": 0.25})) == 0


def test_degenerate_inputs() -> None:
    nothing = nms(np.zeros((0, 4), np.float32), np.zeros((0, 3), np.float32), **OPTIONS)
    assert nothing.shape == (0, 6) and nothing.dtype == np.float32
    assert nms(np.zeros((4, 4), np.float32), np.zeros((4, 3), np.float32), **OPTIONS).shape == (0, 6)
    points = nms(np.zeros((4, 4), np.float32), np.full((4, 1), 0.5, np.float32), **OPTIONS)
    assert len(points) == 4, "boxes without area overlap nothing"


def test_tensors_and_lists_are_taken() -> None:
    boxes, scores = crowd(30, 2)
    expected = nms(boxes, scores, **OPTIONS)
    half = nms(torch.from_numpy(boxes).requires_grad_(), torch.from_numpy(scores), **OPTIONS)
    np.testing.assert_array_equal(half, expected)
    np.testing.assert_array_equal(nms(boxes.tolist(), scores.tolist(), **OPTIONS), expected)


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"\(1, 5, 4\)"):
        nms(np.zeros((1, 5, 4)), np.zeros((5, 3)), **OPTIONS)
    with pytest.raises(ValueError, match="of one image"):
        nms(np.zeros((5, 4)), np.zeros((6, 3)), **OPTIONS)
