"""The jackknife's mAP is COCO's mAP of the images that are left."""

from __future__ import annotations

import numpy as np
import pytest

from yolov6core.evaluation.coco_map import coco_metrics
from yolov6core.evaluation.jackknife import map_without_parts, standard_error


def drawn(images: int, classes: int, seed: int) -> tuple[dict, dict[int, np.ndarray]]:
    """Ground truth with some crowds, and detections of it with jitter, misses, doubles and tied scores."""
    rng = np.random.default_rng(seed)
    rows, found = [], {}
    for image in range(1, images + 1):
        boxes = []
        for _ in range(rng.integers(0, 6)):
            x, y, w, h = rng.uniform((0, 0, 10, 10), (80, 80, 60, 60))
            label, crowd = int(rng.integers(classes)), int(rng.random() < 0.1)
            rows.append({"id": len(rows) + 1, "image_id": image, "category_id": 3 * label + 1, "bbox": [x, y, w, h]})
            rows[-1] |= {"area": w * h, "iscrowd": crowd}
            for _ in range(rng.integers(0, 3)):
                jitter = rng.normal(0, 4, 4)
                corners = np.array([x, y, x + w, y + h]) + jitter
                boxes.append([*corners, round(float(rng.random()), 1), label if rng.random() < 0.8 else 0])
        found[image] = np.array(sorted(boxes, key=lambda box: -box[4]), dtype=np.float32).reshape(-1, 6)
    truth = {
        "images": [{"id": image, "width": 200, "height": 200} for image in range(1, images + 1)],
        "annotations": rows,
        "categories": [{"id": 3 * label + 1, "name": f"c{label}"} for label in range(classes)],
    }
    return truth, found


@pytest.mark.parametrize(("images", "classes", "parts", "seed"), [(23, 3, 5, 0), (8, 6, 10, 1), (2, 1, 2, 7)])
def test_each_value_is_coco_map_of_the_rest(images, classes, parts, seed):
    truth, found = drawn(images, classes, seed)
    values = map_without_parts(truth, found, parts=parts)
    assert len(values) == min(parts, images)
    for part, value in enumerate(values):
        rest = [image for image in range(1, images + 1) if (image - 1) % len(values) != part]
        kept = {image: found[image] for image in rest}
        expected = coco_metrics(truth, kept, image_ids=rest).stats["map50_95"]
        assert value == pytest.approx(expected, abs=1e-9), part


def test_one_image_has_no_parts():
    truth, found = drawn(1, 2, 0)
    assert map_without_parts(truth, found) == []


def test_the_error_of_a_mean_is_the_usual_one():
    values = np.random.default_rng(0).normal(size=40)
    without = [float(np.delete(values, place).mean()) for place in range(len(values))]
    assert standard_error(without) == pytest.approx(values.std(ddof=1) / np.sqrt(len(values)))


def test_one_part_tells_no_error():
    assert standard_error([]) == standard_error([0.3]) == 0.0
