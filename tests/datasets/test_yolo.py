from __future__ import annotations

import cv2
import numpy as np
import pytest

from yolov6core.datasets.annotated import DatasetError
from yolov6core.datasets.yolo import is_yolo, read_yolo


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


def test_outlines_become_their_bounds(tmp_path):
    (tmp_path / "classes.txt").write_text("cat\n")
    put(tmp_path, "images/a.png", "0 .1 .2 .5 .2 .5 .75\n0 .1 .2 .5 .2 .5 .75 .3\n")
    source = read_yolo(str(tmp_path))
    [item] = source.splits["all"][0].objects
    assert item.box == pytest.approx((10, 16, 50, 60)) and [p.kind for p in source.problems] == ["broken_object"]


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("images/a", "images/b"),
        ("../images/a", "../images/b"),  # as some exporters write it
        ("/elsewhere/images/a", "C:/elsewhere/images/b"),
        ("a", "b"),  # counted from path
        ("[./images/a]", "b.txt"),
    ],
)
def test_places_in_the_yaml_file(tmp_path, train, val):
    (tmp_path / "data.yaml").write_text(f"path: images\ntrain: {train}\nval: {val}\nnames: [cat]\n")
    (tmp_path / "b.txt").write_text("./images/b/y.png\n/elsewhere/images/b/gone.png\n")
    put(tmp_path, "images/a/x.png", "0 .5 .5 .2 .5\n")
    put(tmp_path, "images/b/y.png", "")
    source = read_yolo(str(tmp_path))
    assert [image.stem for image in source.splits["train"]] == ["x"]
    assert [image.stem for image in source.splits["val"]] == ["y"]
    assert [p.kind for p in source.problems] == (["missing_annotation"] if val == "b.txt" else [])


def test_the_same_place_for_both_is_split_by_chance(tmp_path):
    (tmp_path / "data.yaml").write_text("train: images/a\nval: images/a\nnames: [cat]\n")
    put(tmp_path, "images/a/x.png", "")
    assert list(read_yolo(str(tmp_path)).splits) == ["all"]


@pytest.mark.parametrize("place", ["images/../../secret", "../../secret", "/etc", "gone"])
def test_places_outside_are_refused(tmp_path, place):
    root = tmp_path / "set"
    put(root, "images/train/a.png", "")
    (tmp_path / "secret").mkdir()
    (root / "data.yaml").write_text(f"train: images/train\nval: {place}\nnames: [cat]\n")
    with pytest.raises(DatasetError, match="is not in .*may not leave it"):
        read_yolo(str(root))


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
