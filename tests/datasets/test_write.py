from __future__ import annotations

import contextlib
import io
import json
import os

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from yolov6core.datasets.annotated import AnnotatedImage, AnnotatedObject
from yolov6core.datasets.images import Images
from yolov6core.datasets.voc import voc_box
from yolov6core.datasets.write import coco_text, label_row, label_text, write_dataset


def image(path="set/a.jpg", *objects, size=(80, 100)):
    return AnnotatedImage(path, size, tuple(objects))


def coco_document(images, names):
    return json.loads("".join(coco_text(Images(images), names)))


def test_whole_image_and_one_pixel():
    assert label_row(0, voc_box((1, 1, 100, 100)), (100, 100)).split() == [
        "0",
        *["0.5000000000"] * 2,
        *["1.0000000000"] * 2,
    ]
    assert label_row(3, voc_box((1, 1, 1, 1)), (100, 200)).split() == [
        "3", "0.0025000000", "0.0050000000", "0.0050000000", "0.0100000000",
    ]  # fmt: skip


def test_box_survives_the_label_file():
    rng = np.random.default_rng(0)
    for _ in range(500):
        height, width = (int(v) for v in rng.integers(1, 10000, 2))
        xs, ys = np.sort(rng.uniform(0, width, 2)), np.sort(rng.uniform(0, height, 2))
        box = (xs[0], ys[0], xs[1], ys[1])
        _, cx, cy, w, h = (float(value) for value in label_row(1, box, (height, width)).split())
        back = ((cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height)
        assert np.abs(np.subtract(back, box)).max() < 1e-6


def test_crowds_are_for_evaluation_only():
    crowd = AnnotatedObject("cat", (0, 0, 50, 40), crowd=True)
    assert label_text(image("a.jpg", crowd), {"cat": 0}) == ""
    assert [a["iscrowd"] for a in coco_document([image("a.jpg", crowd)], ["cat"])["annotations"]] == [1]


def test_coco_document():
    cat, dog = AnnotatedObject("cat", (10, 20, 30, 60)), AnnotatedObject("dog", (0, 0, 100, 80))
    document = coco_document([image("a.jpg", dog, cat), image("b.jpg"), image("c.jpg", cat)], ["cat", "dog"])
    assert [entry["id"] for entry in document["images"]] == [1, 2, 3]
    assert document["images"][0] == {"id": 1, "file_name": "a.jpg", "height": 80, "width": 100}
    assert document["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    assert [(a["id"], a["image_id"], a["category_id"]) for a in document["annotations"]] == [
        (1, 1, 2),
        (2, 1, 1),
        (3, 3, 1),
    ]
    assert document["annotations"][1]["bbox"] == [10, 20, 20, 40] and document["annotations"][1]["area"] == 800


def test_pycocotools_scores_the_truth_with_one(tmp_path):
    images = [image("a.jpg", AnnotatedObject("cat", (10, 20, 30, 60)), AnnotatedObject("dog", (0, 0, 100, 80)))]
    write_dataset(tmp_path, {"val": Images(images)}, ["cat", "dog"], calib=Images())
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(tmp_path / "annotations/instances_val.json"))
        found = truth.loadRes([{**a, "score": 0.9} for a in truth.dataset["annotations"]])
        run = COCOeval(truth, found, "bbox")
        run.evaluate(), run.accumulate(), run.summarize()
    assert run.stats[0] == pytest.approx(1.0)


def test_folder(tmp_path):
    box = AnnotatedObject("cat", (10, 20, 30, 60))
    a, b, c = image("set/a.jpg", box), image("set/b.jpg"), image("set/ä b.png", box)
    write_dataset(tmp_path, {"train": Images([a, b]), "val": Images([c])}, ["cat"], calib=Images([a]))
    assert (tmp_path / "train.txt").read_text() == "set/a.jpg\nset/b.jpg\n"
    assert (tmp_path / "val.txt").read_text(encoding="utf-8") == "set/ä b.png\n"
    assert (tmp_path / "calib.txt").read_text() == "set/a.jpg\n"
    assert (tmp_path / "labels/a.txt").read_text() == "0 0.2000000000 0.5000000000 0.2000000000 0.5000000000\n"
    assert (tmp_path / "labels/b.txt").read_text() == ""
    assert (
        json.loads((tmp_path / "annotations/instances_val.json").read_text())["images"][0]["file_name"] == "set/ä b.png"
    )


@pytest.mark.parametrize(
    ("train", "val", "named"),
    [
        (["x/b.jpg", "x/a.jpg"], ["x/c.png"], ["b", "a", "c"]),
        (["d/x/b.jpg", "d/x/a.jpg"], ["d/y/a.png"], ["x/b", "x/a", "y/a"]),
        (["/d/x/x/a.jpg", "/d/x/a.jpg"], ["/d/a.jpg"], ["x/x/a", "x/a", "a"]),
        (["x/a.jpg", "x/a.png"], ["b.png"], ["x/a.jpg", "x/a.png", "b.png"]),
    ],
)
def test_one_name_in_two_folders(tmp_path, train, val, named):
    box = AnnotatedObject("cat", (10, 20, 30, 60))
    splits = {"train": Images(image(path, box) for path in train), "val": Images(image(path) for path in val)}
    found = write_dataset(tmp_path, splits, ["cat"], calib=Images())
    assert [found.of(path) for path in (*train, *val)] == named
    assert [bool((tmp_path / f"labels/{name}.txt").read_text()) for name in named] == [True, True, False]
    assert sum(path.is_file() for path in (tmp_path / "labels").rglob("*")) == 3


def test_a_disk_that_takes_a_part_at_a_time(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, content: write(file, content[:7]))
    cat = image("a.jpg", AnnotatedObject("cat", (10, 20, 30, 60)))
    write_dataset(tmp_path, {"val": Images([cat])}, ["cat"], calib=Images())
    assert (tmp_path / "labels/a.txt").read_text() == label_text(cat, {"cat": 0})
