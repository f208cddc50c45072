"""Quantized networks beside the float network, on the same images."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from yolov6core.evaluation.coco_map import coco_metrics
from yolov6core.int8.float_comparison import FloatComparison, retention, score_of, told_share
from yolov6core.quant.selection import selection_score

IMAGES = 12


def truth() -> dict[str, Any]:
    """Twelve images with one object each, of two classes in turn."""
    images = [{"id": i, "file_name": f"{i}.png", "width": 64, "height": 64} for i in range(1, IMAGES + 1)]
    boxes = [
        {"id": i, "image_id": i, "category_id": 1 + i % 2, "bbox": [8, 8, 16 + i, 24], "area": 24 * (16 + i)}
        for i in range(1, IMAGES + 1)
    ]
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    return {"images": images, "annotations": [box | {"iscrowd": 0} for box in boxes], "categories": categories}


def result(*, missing: int = 0, shift: float = 0.0) -> SimpleNamespace:
    """What an evaluation gives for a network that finds all objects but the first `missing`, `shift` pixels aside."""
    found = {}
    for row in truth()["annotations"]:
        x, y, width, height = row["bbox"]
        box = [x + shift, y, x + shift + width, y + height, 0.9, row["category_id"] - 1]
        rows = [] if row["id"] <= missing else [box]
        found[row["image_id"]] = np.array(rows, np.float32).reshape(-1, 6)
    return SimpleNamespace(stats=coco_metrics(truth(), found).stats, detections=found)


def test_the_share_that_is_left():
    assert retention(0.3, 0.4) == pytest.approx(0.75)
    assert math.isnan(retention(0.0, 0.0)) and told_share(retention(0.0, 0.0)) == "-"
    assert told_share(0.987) == "98.7 %"


def test_a_score_knows_how_it_varies_with_the_images():
    score = score_of(result(missing=3), truth())
    assert score.value == pytest.approx(result(missing=3).stats["map50_95"]) and 0 < score.value < 1
    assert len(score.without) == 10
    assert len(set(score.without)) > 1, "without images that were found, the score is lower"


def test_the_float_network_beside_itself_is_perfect():
    figures = FloatComparison(result(), truth())(result())
    assert figures["map50_95"] == pytest.approx(1.0) and figures["map50"] == pytest.approx(1.0)
    assert figures["agreement"] == pytest.approx(1.0)


def test_figures_fall_with_what_is_lost():
    compare = FloatComparison(result(), truth())
    figures = [compare(result(missing=count, shift=2.0 * count)) for count in (0, 1, 4)]
    assert set(figures[0]) == {"map50_95", "map50", "agreement", "selection_score"}
    for name in figures[0]:
        values = [row[name] for row in figures]
        assert values[0] > values[1] > values[2], f"{name}: {values}"


def test_the_selection_score_is_that_of_the_three_figures():
    compare, other = FloatComparison(result(), truth()), result(missing=2, shift=1.0)
    figures = compare(other)
    wanted = selection_score(score_of(other, truth()), compare.score, agreement=figures["agreement"])
    assert figures["selection_score"] == wanted
