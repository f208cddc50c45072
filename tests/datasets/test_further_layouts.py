"""Datasets of other tools, and values that no tool should write."""

from __future__ import annotations

import os
import zlib

import cv2
import numpy as np
import pytest

from tests.datasets.odd_datasets import (
    STEMS,
    coco,
    coco_document,
    voc,
    write,
    xml,
    yolo,
)
from tests.support.png import png_chunk
from yolov6core.base.errors import UserError
from yolov6core.data.dataset import DetectionDataset

# layouts


def test_roboflows_coco(root, run):
    for split, stems in (("train", "abcd"), ("valid", "ef"), ("test", "gh")):
        coco(root / split, file="_annotations.coco.json", images="{}.jpg", stems=stems)
    with pytest.raises(UserError, match="there are: test, train, valid"):
        run(root)
    assert run(root, val_split="valid") == {} and run.listed("val") == list("ef")


@pytest.mark.parametrize("splits", [False, True])
def test_fiftyones_coco(root, run, splits):
    if splits:
        for split, stems in (("train", "abcdef"), ("val", "gh")):
            coco(root / split, file="labels.json", images="data/{}.jpg", stems=stems)
    else:
        coco(root, file="labels.json", images="data/{}.jpg")
    assert run(root) == {} and run.listed("train", "select", "val") == list(STEMS)


@pytest.mark.parametrize("both", [False, True])
def test_darknet(root, run, both):
    yolo(root, images="obj_train_data/{}.jpg", labels="obj_train_data/{}.txt", names="obj.names")
    stems = {"train": "abcdef", "valid": "gh"} if both else {"train": STEMS}
    for name, own in stems.items():
        write(root / f"{name}.txt", "".join(f"data/obj_train_data/{stem}.jpg\n" for stem in own))
    rows = ["classes = 2", "names = data/obj.names", *(f"{name} = data/{name}.txt" for name in stems)]
    write(root / "obj.data", "\n".join(rows))
    assert run(root) == {} and run.listed("train", "select", "val") == list(STEMS)
    if both:
        assert run.listed("val") == ["g", "h"]


def test_darknet_without_lists(root, run):
    assert run(yolo(root, images="obj/{}.jpg", labels="obj/{}.txt", names="obj.names")) == {}
    assert run.listed("train", "select", "val") == list(STEMS)


def test_yolo_lists_with_prefixes(root, run):
    yolo(root, names=None)
    write(root / "data.yaml", "names: [dog, cat]\ntrain: lists/train.txt\nval: lists/val.txt\n")
    write(root / "lists/train.txt", "".join(f"some/where/images/{stem}.jpg\n" for stem in "abcdef"))
    write(root / "lists/val.txt", "".join(f"D:\\work\\images\\{stem}.jpg\r\n" for stem in "gh"))
    assert run(root) == {} and run.listed("val") == ["g", "h"]


@pytest.mark.parametrize("name", ["/home/me/data/{}.jpg", "C:\\data\\images\\{}.jpg", "other/{}.jpg", "./{}.jpg"])
def test_coco_names_of_another_machine(root, run, name):
    assert run(coco(root, coco_document(name=name))) == {}


def jpeg_of_kind(marker):
    """A JPEG whose frame is of another kind than OpenCV decodes."""
    data = bytearray(cv2.imencode(".jpg", np.zeros((80, 100, 3), np.uint8))[1].tobytes())
    data[data.index(b"\xff\xc0") + 1] = marker
    return bytes(data)


@pytest.mark.parametrize("marker", [0xC3, 0xC5, 0xC7, 0xCB])
def test_jpegs_of_kinds_that_cannot_be_decoded(root, run, marker):
    (voc(root) / "JPEGImages/a.jpg").write_bytes(jpeg_of_kind(marker))
    assert run(root) == {"undecodable_image": 1}


def test_png_with_a_wrong_sum(root, run):
    voc(root, images="JPEGImages/{}.png")
    content = zlib.compress(bytes(80 * 301))[:-4] + bytes(4)
    data = (root / "JPEGImages/a.png").read_bytes()
    (root / "JPEGImages/a.png").write_bytes(data[:33] + png_chunk(b"IDAT", content) + data[-12:])
    assert run(root) == {"undecodable_image": 1}


@pytest.mark.parametrize("make", [voc, coco])
def test_a_single_list_of_test_images_is_no_training_set(root, run, make):
    make(root)
    if make is voc:
        write(root / "ImageSets/Main/test.txt", "\n".join(STEMS))
    else:
        (root / "annotations/instances_default.json").rename(root / "annotations/instances_test.json")
    with pytest.raises(UserError, match="there are: test"):
        run(root)


def test_one_folder_of_training_images_is_split_by_chance(root, run):
    assert run(voc(root / "train", annotations="{}.xml", images="{}.jpg").parent) == {}


@pytest.mark.parametrize("where", ["./set", "set//", "../here/set"])
def test_same_names_under_an_odd_root(root, run, where, monkeypatch):
    root = root.parent / "here/set"
    for folder in "xy":
        voc(root, annotations=f"Annotations/{folder}/{{}}.xml", images=f"JPEGImages/{folder}/{{}}.jpg", stems="abc")
    monkeypatch.chdir(root.parent)
    assert run(where) == {}
    for split in ("train", "select", "val"):
        data = DetectionDataset(run.out, split)
        assert all(len(data.load(k)[1]) == 1 for k in range(len(data)))


def test_links_in_circles(root, run):
    (voc(root) / "JPEGImages/again").symlink_to(root)
    (root / "JPEGImages/self").symlink_to(root / "JPEGImages")
    assert run(root) == {} and run.listed("train", "select", "val") == list(STEMS)


def test_names_that_are_not_utf8(root, run, caplog):
    voc(root)
    raw = os.fsencode(root / "JPEGImages")
    os.rename(raw + b"/a.jpg", raw + b"/a\xff.jpg")
    os.rename(os.fsencode(root / "Annotations/a.xml"), os.fsencode(root) + b"/Annotations/a\xff.xml")
    assert run(root) == {"unsafe_path": 2}
    assert "\\udcff" in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        {"images": [{"id": 1, "file_name": None}]},
        {"images": [{"id": 1, "file_name": ["a.jpg"]}]},
        {"images": {}},
        {"annotations": {}},
        {"annotations": None},
        {"categories": [{"id": [1], "name": "x"}]},
        {"categories": "x"},
        {"images": [{"id": 1.5, "file_name": "a.jpg", "height": float("nan"), "width": 1e400}]},
        {"images": [{"id": True, "file_name": "a.jpg"}]},
        {"annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 10**400, 1]}]},
        {"annotations": [{"id": 1, "image_id": {}, "category_id": {}, "bbox": {}}]},
    ],
)
def test_odd_values_of_coco(root, run, change):
    coco(root, coco_document() | change)
    for format_ in ("auto", "coco"):
        with pytest.raises(UserError, match="no usable|not a COCO file|category id|COCO"):
            run(root, format=format_)


@pytest.mark.parametrize(
    "text",
    [
        "names: {a: b}",
        "names: [[a]]",
        "names: 3",
        "[1, 2]",
        "names: [a, b]\nkpt_shape: x",
        "a: b: c",
        "\0",
        "names: {0: a, 2: b}",
        "names: &a [*a]",
        "names: [a, b]\ntrain: 3\nval: {x: y}",
        "names: [a]\npath: [1]\ntrain: images\nval: images",
    ],
)
def test_odd_values_of_yaml(root, run, text):
    write(yolo(root, names=None) / "data.yaml", text)
    try:
        run(root)
    except UserError as error:
        assert "data.yaml" in str(error) or "is not in" in str(error) or "split" in str(error)


@pytest.mark.parametrize(
    "row",
    [
        "0 1e308 1e308 1e308 1e308",
        "1e400 .5 .5 .1 .1",
        "0 -1 -1 -.5 -.5",
        "\u0660 .5 .5 .1 .1",
        "0 .5 .5 -.2 -.2",
        "0,.5,.5,.2,.2",
        "0 .5 .5 .2 .2 .9",
    ],
)
def test_odd_rows(root, run, row):
    write(yolo(root) / "labels/a.txt", row + "\n")
    run(root)
    assert all(len(line.split()) == 5 for line in (run.out / "labels/a.txt").read_text().splitlines())


@pytest.mark.parametrize(
    "corners", [("1e308", "1e308", "1e309", 5), (-5, -5, 2000, 2000), ("", 1, 2, 3), ("5,5", 1, 2, 3)]
)
def test_odd_corners(root, run, corners):
    write(voc(root) / "Annotations/a.xml", xml("cat", corners=corners))
    assert set(run(root)) <= {"broken_object", "clipped_box", "outside_box", "zero_coordinate", "swapped_corners"}


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("img/{}.jpg", "labels/{}.txt"),
        ("images/{}.jpg", "annotations/{}.txt"),
        ("{}.jpg", "{}.txt"),
        ("data/images/{}.jpg", "data/labels/{}.txt"),
    ],
)
def test_yolo_in_folders_of_other_names(root, run, images, labels):
    assert run(yolo(root, images=images, labels=labels)) == {}
    assert run.listed("train", "select", "val") == list(STEMS)


def test_a_yaml_file_of_another_name(root, run):
    yolo(root)
    write(root / "compose.yaml", "a: b: c")
    assert run(root) == {}, "nobody reads it where classes.txt is there"
    (root / "classes.txt").unlink()
    write(root / "compose.yaml", "names: [dog, cat]\ntrain: images\nval: images\n")
    assert run(root) == {}


def test_rows_of_an_image_and_its_xml_file(root, run):
    voc(root)
    for name, stems in (("train", "abcdef"), ("val", "gh")):
        write(root / f"{name}.txt", "".join(f"./JPEGImages/{stem}.jpg Annotations/{stem}.xml\n" for stem in stems))
    assert run(root) == {} and run.listed("val") == ["g", "h"]
