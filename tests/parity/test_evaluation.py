"""COCO figures, and precision, recall and F1, against recorded results: 1e-6."""

from __future__ import annotations

import numpy as np
import pytest

from yolov6core.evaluation.coco_map import coco_metrics
from yolov6core.evaluation.curves import class_curves, match_detections

TOLERANCE = 1e-6
THRESHOLDS = np.linspace(0.5, 0.95, 10)


@pytest.fixture(scope="module")
def record(golden) -> dict:
    found = golden("evaluation.json")[1]
    assert found["cases"] and found["repo_pr_metric"]
    return found


def arrays_of(rows: list[dict], category_ids: list[int]) -> dict[int, np.ndarray]:
    """COCO result rows as [N, 6] per image, in the order given."""
    found: dict[int, list[list[float]]] = {}
    for row in rows:
        x, y, width, height = row["bbox"]
        label = category_ids.index(row["category_id"])
        found.setdefault(row["image_id"], []).append([x, y, x + width, y + height, row["score"], label])
    return {image_id: np.array(image) for image_id, image in found.items()}


def test_twelve_figures_and_classes(record) -> None:
    for name, case in record["cases"].items():
        categories = {category["id"]: category["name"] for category in case["ground_truth"]["categories"]}
        result = coco_metrics(case["ground_truth"], arrays_of(case["detections"], sorted(categories)))
        np.testing.assert_allclose(
            list(result.stats.values()), case["stats_in_order"], atol=TOLERANCE, rtol=0, err_msg=name
        )
        for category, expected in case["per_category"].items():
            found = result.per_class[categories[int(category)]]
            assert found["map50_95"] == pytest.approx(expected["ap"], abs=TOLERANCE), name
            assert found["map50"] == pytest.approx(expected["ap50"], abs=TOLERANCE), name


def test_precision_recall_and_f1(record) -> None:
    for name, case in record["repo_pr_metric"].items():
        images = case["per_image"]
        detections = [np.array(i["detections_sorted_xyxy_score_cls"]).reshape(-1, 6) for i in images]
        truth = [np.array(i["labels_cls_xyxy"]).reshape(-1, 5) for i in images]
        hits = [np.array(i["matches_per_iou_threshold"], bool).reshape(-1, len(THRESHOLDS)) for i in images]
        found = np.concatenate(detections)
        curves = class_curves(np.concatenate(hits), found[:, 4], found[:, 5], np.concatenate(truth)[:, 0])
        best = curves.best()
        assert (best, curves.classes.tolist()) == (case["best_mean_f1_index_of_1000"], case["classes"]), name
        for values, key in (
            (curves.precision[:, best], "precision_at_best"),
            (curves.recall[:, best], "recall_at_best"),
            (curves.f1[:, best], "f1_at_best"),
            (curves.average_precision[:, 0], "ap50"),
            (curves.average_precision.mean(axis=1), "ap50_95"),
            (curves.average_precision.mean(), "map50_95"),
        ):
            np.testing.assert_allclose(values, case[key], atol=TOLERANCE, err_msg=f"{name} {key}")


def test_matches_where_both_ways_agree(record) -> None:
    """The official evaluation serves the highest overlaps first; `match` serves the highest scores first, as COCO does.

    The two differ only where two detections compete for one box, so the number of boxes found is the same.
    """
    for name, case in record["repo_pr_metric"].items():
        for image in case["per_image"]:
            detections = np.array(image["detections_sorted_xyxy_score_cls"]).reshape(-1, 6)
            truth = np.array(image["labels_cls_xyxy"]).reshape(-1, 5)
            expected = np.array(image["matches_per_iou_threshold"], bool).reshape(-1, len(THRESHOLDS))
            found = match_detections(detections, truth, THRESHOLDS)
            np.testing.assert_array_equal(found.sum(axis=0), expected.sum(axis=0), err_msg=name)
