from __future__ import annotations

import cv2
import numpy as np
import pytest

from yolov6core.data.annotated import DatasetError
from yolov6core.data.yolo import is_yolo, read_yolo


def put(root, image, label):
    path = root / image
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.zeros((80, 100, 3), np.uint8))
    if label is not None:
        text = root / image.replace("images", "labels").replace(".png", ".txt")
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text(label)


@pytest.mark.parametrize("pattern", ["images/{}/a_{}.png", "{}/images/a_{}.png"])
@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("data.yaml", "names: [cat, dog]\n"),
        ("dataset.yaml", "names:\n  1: dog\n  0: cat\n"),
        ("classes.txt", "cat\ndog\n\n"),
    ],
)
def test_layouts(tmp_path, pattern, file, text):
    (tmp_path / file).write_text(text)
    for split in ("train", "val"):
        put(tmp_path, pattern.format(split, split), "1 0.5 0.5 0.2 0.5\n")
    assert is_yolo(str(tmp_path))
    source = read_yolo(str(tmp_path))
    assert source.names == ("cat", "dog") and not source.problems
    for split in ("train", "val"):
        [image] = source.splits[split]
        [item] = image.objects
        assert item.name == "dog" and item.box == pytest.approx((40, 20, 60, 60))


def test_bad_rows_cost_themselves_only(tmp_path):
    (tmp_path / "classes.txt").write_text("cat\n")
    rows = [
        "0 .5 .5 .1 .1",
        "",
        "0 .5 .5 .1",
        "1 .5 .5 .1 .1",
        "-1 .5 .5 .1 .1",
        "0.5 .5 .5 .1 .1",
        "0 x .5 .1 .1",
        "0 nan 0 0 0",
    ]
    put(tmp_path, "images/a.png", "\n".join(rows))
    put(tmp_path, "images/b.png", None)
    put(tmp_path, "images/c.png", "")
    (tmp_path / "images/d.png").write_text("no image")
    (tmp_path / "labels/d.txt").touch()
    source = read_yolo(str(tmp_path))
    assert [len(image.objects) for image in source.splits["all"]] == [1, 0]
    kinds = [p.kind for p in source.problems]
    assert kinds == ["broken_object"] * 6 + ["missing_annotation", "unreadable_image"]


def test_missing_parts_are_named(tmp_path):
    put(tmp_path, "images/train/a.png", "")
    with pytest.raises(DatasetError, match="class names are missing.*classes.txt"):
        read_yolo(str(tmp_path))
    (tmp_path / "data.yaml").write_text("names: 7\n")
    with pytest.raises(DatasetError, match="'names' must be"):
        read_yolo(str(tmp_path))
    (tmp_path / "data.yaml").write_text("names: [cat]\n")
    with pytest.raises(DatasetError, match="no folder for the split 'val'"):
        read_yolo(str(tmp_path))
