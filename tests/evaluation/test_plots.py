"""Rows have the right values, and pictures show their contents in the right places."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from yolov6core.evaluation.coco_map import coco_metrics
from yolov6core.evaluation.curves import curves_of
from yolov6core.evaluation.plots import (
    batch_picture,
    comparison,
    confidence_rows,
    draw_boxes,
    mean_confidence_rows,
    mean_precision_rows,
    precision_recall_rows,
    save_jpeg,
    stack_rows,
)

NAMES = ("disc", "square")
TRUTH = {
    "images": [{"id": 1, "file_name": "1", "height": 100, "width": 100}],
    "categories": [{"id": 1, "name": "disc"}, {"id": 2, "name": "square"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 2, "bbox": [10, 10, 30, 30], "area": 900, "iscrowd": 0}],
}
FOUND = {1: np.array([[10, 10, 40, 40, 0.9, 1]], dtype=np.float32)}


def test_rows_for_curves() -> None:
    rows = precision_recall_rows(coco_metrics(TRUTH, FOUND), NAMES)
    assert len(rows) == 101 and {row["class"] for row in rows} == {"square"}
    assert rows[-1] == {"class": "square", "recall": 1.0, "precision": 1.0}
    rows = confidence_rows(curves_of(FOUND, TRUTH), NAMES)
    assert len(rows) == 100 and set(rows[0]) == {"class", "confidence", "precision", "recall", "f1"}
    assert rows[0]["f1"] == 1.0 and rows[-1]["recall"] == 0.0


def test_means_over_classes_leave_out_classes_without_truth() -> None:
    rows = mean_precision_rows(coco_metrics(TRUTH, FOUND))
    assert len(rows) == 101 and rows[-1] == {"recall": 1.0, "precision": 1.0}
    rows = mean_confidence_rows(curves_of(FOUND, TRUTH))
    assert len(rows) == 100 and rows[0]["f1"] == 1.0 and rows[-1]["recall"] == 0.0


def test_boxes_are_drawn_on_a_copy() -> None:
    image = np.zeros((80, 80, 3), np.uint8)
    picture = draw_boxes(image, np.array([[10, 20, 60, 70.0]]), np.array([1.0]), NAMES, scores=np.array([0.5]))
    assert not image.any() and picture[45, 10].any() and picture[70, 30].any() and not picture[45, 35].any()


@pytest.mark.parametrize("shape", [(48, 64), (480, 640), (101, 37)])
def test_comparison_is_one_row_of_the_given_width(shape) -> None:
    image = np.full((*shape, 3), 90, np.uint8)
    truth = np.array([[0, 5, 5, 20, 20]], dtype=np.float32)
    panels = {"float": FOUND[1], "INT8": FOUND[1][:0]}
    row = comparison(image, truth, panels, NAMES)
    assert row.shape[1] == 640 and row.dtype == np.uint8
    first, second, third = (row[24:, i * 213 : (i + 1) * 213] for i in range(3))
    assert (first != 90).any() and (second != 90).any() and (third == 90).all()


def test_weak_detections_are_not_drawn() -> None:
    image = np.full((60, 60, 3), 90, np.uint8)
    row = comparison(image, np.zeros((0, 5)), {"float": FOUND[1]}, NAMES, min_score=0.95)
    assert (row[24:] == 90).all()


def test_rows_are_stacked() -> None:
    stacked = stack_rows([np.zeros((5, 8, 3), np.uint8), np.zeros((4, 6, 3), np.uint8)])
    assert stacked.shape == (9, 8, 3) and (stacked[5:, 6:] == 255).all()


def test_batch_picture_shows_boxes_where_they_are() -> None:
    images = torch.zeros(5, 3, 32, 48, dtype=torch.uint8)
    targets = torch.tensor([[4, 1, 0.5, 0.5, 0.5, 0.5]])
    picture = batch_picture(images, targets, NAMES, columns=2)
    assert picture.shape == (96, 96, 3)
    own = picture[64:, :48]
    assert own[16, 12].any() and not own[16, 24].any()
    assert (picture[64:, 48:] == 255).all() and not picture[:64].any()


def test_a_jpeg_is_written(tmp_path) -> None:
    save_jpeg(np.full((20, 30, 3), 77, np.uint8), tmp_path / "picture.jpg")
    assert cv2.imread(str(tmp_path / "picture.jpg")).shape == (20, 30, 3)
