"""The vectorised matching gives what pycocotools' own gives."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from yolov6core.evaluation.coco_map import coco_metrics
from yolov6core.evaluation.coco_match import match


def scene(seed: int) -> tuple[dict, dict[int, np.ndarray]]:
    """Ground truth with crowds and all areas, detections with ties, misses, doubles and more than 100 in an image."""
    rng = np.random.default_rng(seed)
    annotations, detections = [], {}
    for image in range(1, 7):
        count = int(rng.integers(0, 12))
        found = []
        for _ in range(count):
            corner, size = rng.uniform(0, 300, 2), rng.choice([15, 60, 150]) * rng.uniform(0.6, 1.4, 2)
            label = int(rng.integers(3))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": label + 1,
                    "bbox": [*corner, *size],
                    "area": float(size.prod()),
                    "iscrowd": int(rng.random() < 0.15),
                }
            )
            for _ in range(int(rng.integers(0, 4))):
                jitter = rng.normal(0, 0.06, 4) * np.tile(size, 2) * (rng.random() > 0.2)
                box = np.concatenate((corner, corner + size)) + jitter
                found.append([*box, round(float(rng.random()), 1), label])
        if image == 3:
            found += [[*corner, *(corner + 20), 0.05, 0] for corner in rng.uniform(0, 300, (130, 2))]
        detections[image] = np.array(found, dtype=np.float64).reshape(-1, 6)
    truth = {
        "images": [{"id": i, "file_name": str(i), "height": 600, "width": 600} for i in range(1, 7)],
        "categories": [{"id": i + 1, "name": f"class{i}"} for i in range(3)],
        "annotations": annotations,
    }
    return truth, detections


def stock(truth: dict, detections: dict[int, np.ndarray]) -> COCOeval:
    """What pycocotools itself finds."""
    rows = [
        {"image_id": image, "category_id": int(d[5]) + 1, "bbox": [d[0], d[1], d[2] - d[0], d[3] - d[1]], "score": d[4]}
        for image, found in detections.items()
        for d in found
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = {**truth, "info": {}, "annotations": [dict(row) for row in truth["annotations"]]}
        reference.createIndex()
        evaluation = COCOeval(reference, reference.loadRes(rows), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


@pytest.mark.parametrize("seed", range(12))
def test_figures_equal_those_of_pycocotools(seed) -> None:
    truth, detections = scene(seed)
    result, expected = coco_metrics(truth, detections), stock(truth, detections)
    np.testing.assert_array_equal(list(result.stats.values()), expected.stats)
    precision = expected.eval["precision"][:, :, :, 0, -1]
    np.testing.assert_array_equal(result.precision, precision[0])
    np.testing.assert_array_equal(result.confidence, expected.eval["scores"][0, :, :, 0, -1])
    for place, figures in enumerate(result.per_class.values()):
        assert figures == {"map50_95": precision[:, :, place].mean(), "map50": precision[0, :, place].mean()}


def test_figures_of_some_images_equal_those_of_pycocotools() -> None:
    truth, detections = scene(3)
    part = {**truth, "images": truth["images"][1:4]}
    part["annotations"] = [row for row in truth["annotations"] if row["image_id"] in (2, 3, 4)]
    expected = stock(part, {image: detections[image] for image in (2, 3, 4)})
    figures = coco_metrics(truth, detections, image_ids=[4, 2, 3]).stats
    np.testing.assert_array_equal(list(figures.values()), expected.stats)


def test_rule_by_hand() -> None:
    thresholds = np.array([0.5, 0.7])
    no, yes = np.array([False, False]), np.array([True, True])
    overlaps = np.array([[0.6, 0.8], [0.9, 0.75], [0.9, 0.75]])
    matched, ignored = match(overlaps, thresholds, ignored=no, crowd=no)
    assert matched.tolist() == [[True, True, False]] * 2 and not ignored.any()
    # a ground truth that counts comes before an ignored one of more overlap
    matched, ignored = match(overlaps[:1], thresholds, ignored=np.array([False, True]), crowd=no)
    assert matched.tolist() == [[True], [True]] and ignored.tolist() == [[False], [True]]
    # crowds take any number of detections
    matched, ignored = match(overlaps, thresholds, ignored=yes, crowd=yes)
    assert matched.all() and ignored.all()
