"""COCO figures from arrays: numbers to check by hand, and equality with pycocotools."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from yolov6core.evaluation.coco_map import STAT_NAMES, coco_metrics


def truth(*boxes: tuple[int, int, list[float]], images: int = 2, classes: int = 2) -> dict:
    """COCO dict of (image id, category id, xywh)."""
    return {
        "images": [{"id": i + 1, "file_name": f"{i}.jpg", "height": 100, "width": 100} for i in range(images)],
        "categories": [{"id": i + 1, "name": f"class{i}"} for i in range(classes)],
        "annotations": [
            {"id": i + 1, "image_id": image, "category_id": label, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for i, (image, label, box) in enumerate(boxes)
        ],
    }


def found(*rows: list[float]) -> np.ndarray:
    return np.array(rows, dtype=np.float32).reshape(-1, 6)


def test_perfect_detections() -> None:
    result = coco_metrics(
        truth((1, 1, [10, 10, 20, 20]), (2, 2, [5, 5, 60, 60])),
        {1: found([10, 10, 30, 30, 0.9, 0]), 2: found([5, 5, 65, 65, 0.8, 1])},
    )
    assert tuple(result.stats) == STAT_NAMES
    assert [result.stats[name] for name in ("map50_95", "map50", "ar100")] == pytest.approx([1.0] * 3)
    assert result.stats["map_small"] == pytest.approx(1.0) and result.stats["map_large"] == -1.0
    assert result.per_class == {f"class{i}": pytest.approx({"map50_95": 1.0, "map50": 1.0}) for i in (0, 1)}


def test_half_of_the_boxes_found() -> None:
    """Recall 0.5 at precision 1 fills 51 of the 101 recall points."""
    result = coco_metrics(
        truth((1, 1, [10, 10, 20, 20]), (1, 1, [60, 60, 20, 20]), classes=1), {1: found([10, 10, 30, 30, 0.9, 0])}
    )
    assert result.stats["map50_95"] == pytest.approx(51 / 101)
    assert result.stats["ar100"] == pytest.approx(0.5)
    assert result.precision[:, 0].tolist() == pytest.approx([1.0] * 51 + [0.0] * 50)
    assert result.confidence[0, 0] == pytest.approx(0.9)


def test_no_detections_at_all() -> None:
    for detections in ({}, {1: np.zeros((0, 6)), 2: np.zeros((0, 6))}):
        result = coco_metrics(truth((1, 1, [10, 10, 20, 20])), detections)
        assert result.stats["map50_95"] == 0.0
        assert result.per_class["class0"] == {"map50_95": 0.0, "map50": 0.0}
        assert result.per_class["class1"] == {"map50_95": None, "map50": None}


def test_no_ground_truth_at_all() -> None:
    result = coco_metrics(truth(), {1: found([0, 0, 5, 5, 0.5, 1])})
    assert set(result.stats.values()) == {-1.0}


def test_category_ids_need_not_be_dense() -> None:
    scattered = truth((1, 2, [10, 10, 20, 20]))
    scattered["categories"] = [{"id": 2, "name": "two"}, {"id": 90, "name": "ninety"}]
    detections = {1: found([10, 10, 30, 30, 0.9, 0])}
    assert coco_metrics(scattered, detections).stats["map50"] == pytest.approx(1.0)
    assert coco_metrics(scattered, detections, category_ids=[90, 2]).stats["map50"] == 0.0


def test_image_ids_limit_what_is_measured() -> None:
    both = truth((1, 1, [10, 10, 20, 20]), (2, 1, [10, 10, 20, 20]))
    detections = {1: found([10, 10, 30, 30, 0.9, 0])}
    assert coco_metrics(both, detections).stats["ar100"] == pytest.approx(0.5)
    assert coco_metrics(both, detections, image_ids=[1]).stats["ar100"] == pytest.approx(1.0)


def test_foreign_images_and_classes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"ground truth lacks: \[9\]"):
        coco_metrics(truth(), {9: np.zeros((0, 6))})
    with pytest.raises(ValueError, match="image 1: class 2 is outside 0..1"):
        coco_metrics(truth(), {1: found([0, 0, 5, 5, 0.5, 2])})


def test_nothing_is_printed_and_inputs_stay(capsys) -> None:
    ground_truth = truth((1, 1, [10, 10, 20, 20]))
    coco_metrics(ground_truth, {1: found([10, 10, 30, 30, 0.9, 0])})
    assert capsys.readouterr().out == ""
    assert set(ground_truth["annotations"][0]) == {"id", "image_id", "category_id", "bbox", "area", "iscrowd"}


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
    """The evaluation of pycocotools."""
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
