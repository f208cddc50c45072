"""Figures and the picture of a dataset's labels."""

from __future__ import annotations

import numpy as np

from yolov6core.datasets.annotated import AnnotatedImage, AnnotatedObject
from yolov6core.datasets.images import Images
from yolov6core.datasets.statistics import class_rows, collect_boxes, statistics_picture

NAMES = ["cat", "dog", "Bär"]
IMAGES = Images(
    [
        AnnotatedImage(
            "a.jpg",
            (200, 400),
            (
                AnnotatedObject("cat", (0, 0, 10, 20)),
                AnnotatedObject("cat", (0, 0, 30, 40)),
                AnnotatedObject("dog", (100, 100, 300, 200)),
            ),
        ),
        AnnotatedImage("b.jpg", (100, 100), ()),
        AnnotatedImage("c.jpg", (100, 100), (AnnotatedObject("cat", (0, 0, 50, 60)),)),
    ]
)


def test_rows_of_every_split_and_class():
    rows = class_rows("train", collect_boxes(IMAGES, NAMES), NAMES)
    rows += class_rows("val", collect_boxes(Images(), NAMES), NAMES)
    assert [(row["split"], row["class"]) for row in rows] == [(s, n) for s in ("train", "val") for n in NAMES]
    assert rows[0] == {
        "split": "train",
        "class": "cat",
        "images": 2,
        "boxes": 3,
        "small": 1,
        "medium": 2,
        "large": 0,
        "median_width": 30.0,
        "median_height": 40.0,
    }
    assert (rows[1]["large"], rows[1]["median_width"], rows[1]["median_height"]) == (1, 200.0, 100.0)
    assert all(row["boxes"] == row["median_width"] == 0 for row in rows[2:])


def test_fractions_count_from_each_image():
    np.testing.assert_allclose(collect_boxes(IMAGES, NAMES).fractions[2:], [[0.25, 0.5, 0.75, 1], [0, 0, 0.5, 0.6]])


def test_picture():
    boxes = collect_boxes(IMAGES, NAMES)
    picture = statistics_picture(boxes, NAMES)
    assert picture.dtype == np.uint8 and picture.shape == (380, 1080, 3)
    np.testing.assert_array_equal(picture, statistics_picture(boxes, NAMES))
    assert (picture != statistics_picture(collect_boxes(IMAGES.part([0]), NAMES), NAMES)).any()
    many = [f"class {i}" for i in range(80)]
    assert statistics_picture(collect_boxes(Images(), many), many).shape == picture.shape
