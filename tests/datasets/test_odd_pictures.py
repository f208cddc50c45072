"""Pictures, labels and messages of the whole preparation."""

from __future__ import annotations

import json
import logging
import os
import shutil

import cv2
import numpy as np
import pytest

from tests.datasets.odd_datasets import (
    STEMS,
    coco,
    picture,
    spoiled_png,
    voc,
    write,
    xml,
    yolo,
)
from yolov6core.base.errors import UserError
from yolov6core.data.dataset import DetectionDataset

# pictures


@pytest.mark.parametrize("decode", ["all", "judged"])
def test_damaged_pictures_are_found_before_the_training(root, run, decode):
    voc(root, images="JPEGImages/{}.png")
    for name, stems in (("train", "abcdef"), ("val", "gh")):
        write(root / f"ImageSets/Main/{name}.txt", "\n".join(stems))
    spoiled_png(root / "JPEGImages/h.png")
    assert run(root, decode=decode) == {"undecodable_image": 1} and run.listed("val") == ["g"]
    for stem in "abcd":
        spoiled_png(root / f"JPEGImages/{stem}.png")
    if decode == "all":
        expected = {"undecodable_image": 5, "untrained_class": 1}  # of the two images left, one selects
        assert run(root, decode=decode) == expected and run.listed("train", "select") == ["e", "f"]


def test_decoding_in_processes(root, run, monkeypatch):
    monkeypatch.setattr("yolov6core.datasets.decode.ALONE", 2)
    voc(root, images="JPEGImages/{}.png")
    spoiled_png(root / "JPEGImages/c.png")
    assert run(root) == {"undecodable_image": 1}


def test_16_bits_of_a_narrow_range_are_told(root, run):
    voc(root, images="JPEGImages/{}.png")
    cv2.imwrite(str(root / "JPEGImages/a.png"), np.full((80, 100), 900, np.uint16))
    assert run(root) == {"narrow_range": 1} and len(run.listed("train", "select", "val")) == 8


@pytest.mark.parametrize("put", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.mkdir()])
@pytest.mark.parametrize("make", [voc, yolo, coco])
def test_what_is_no_file_is_never_waited_for(root, run, put, make):
    make(root)
    folder = next(name for name in ("JPEGImages", "images") if (root / name).is_dir())
    image = root / folder / "a.jpg"
    image.unlink()
    put(image)
    found = run(root)
    assert found in ({"unreadable_image": 1}, {"missing_image": 1})
    label = next((p for p in (root / "Annotations/b.xml", root / "labels/b.txt") if p.exists()), None)
    if label is not None:
        label.unlink()
        put(label)
        assert run(root) == found | {"broken_annotation": 1}


@pytest.mark.parametrize(
    ("make", "file"),
    [
        (yolo, "classes.txt"),
        (yolo, "data.yaml"),
        (coco, "annotations/instances_default.json"),
        (voc, "ImageSets/Main/train.txt"),
    ],
)
def test_fifos_in_the_place_of_texts(root, run, make, file):
    path = make(root) / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if make is voc:
        write(path.with_name("val.txt"), "a\nb\n")
    os.mkfifo(path)
    with pytest.raises(UserError, match=f"{path.name} .*only regular files|no dataset"):
        run(root)


def test_anchor_bombs(root, run):
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    write(yolo(root) / "data.yaml", "\n".join([*rows, "names: *a11"]))
    with pytest.raises(UserError, match="data.yaml is not valid YAML: .*anchors make"):
        run(root)


# labels


def test_names_twice_and_null_names(root, run):
    write(yolo(root, names=None) / "data.yaml", "names: [dog, dog, cat]\n")
    assert run(root) == {"repeated_class": 1} and run.figures["classes"] == 2
    write(root / "data.yaml", "names: [dog, null]\n")
    with pytest.raises(UserError, match="class 1 has no name"):
        run(root)


def test_pose_labels_obey_kpt_shape(root, run):
    write(yolo(root, names=None) / "data.yaml", "names: [dog, cat]\nkpt_shape: [2, 3]\n")
    for stem in STEMS:
        write(root / f"labels/{stem}.txt", "0 .5 .5 .2 .25 .9 .9 2 .1 .1 1\n")
    assert run(root) == {}
    assert (run.out / "labels/a.txt").read_text().split()[1:3] == ["0.5000000000", "0.5000000000"]


def test_swapped_corners_are_put_right(root, run):
    write(voc(root) / "Annotations/a.xml", xml("cat", corners=(40, 60, 11, 21)))
    assert run(root) == {"swapped_corners": 1}
    boxes = [(run.out / f"labels/{stem}.txt").read_text().split()[1:] for stem in "ab"]
    assert boxes[0] == boxes[1]


def test_a_picture_that_was_scaled_afterwards(root, run):
    picture(voc(root) / "JPEGImages/a.jpg", (40, 50))
    picture(root / "JPEGImages/b.jpg", (40, 90))
    assert run(root) == {"scaled_image": 1, "size_mismatch": 1}
    boxes = [np.loadtxt(run.out / f"labels/{stem}.txt")[1:] for stem in "ac"]
    np.testing.assert_allclose(*boxes)


def test_labels_whose_image_is_gone(root, run):
    write(yolo(root) / "labels/gone.txt", "0 .5 .5 .2 .2\n")
    assert run(root) == {"missing_image": 1}


@pytest.mark.parametrize("name", ["wide\u3000a", "\u3000a", "narrow\xa0a", "a b", "ä\u0308a", "=a", "猫a"])
def test_file_names_with_other_spaces(root, run, name):
    voc(root, stems=(name, *"bcdefgh"))
    assert run(root) == {}
    for split in ("train", "select", "val"):
        data = DetectionDataset(run.out, split)
        assert all(len(data.load(k)[1]) == 1 for k in range(len(data)))


# messages


def test_no_usable_image_writes_the_report(root, run, tmp_path, caplog):
    for path in (voc(root) / "JPEGImages").iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(UserError, match="no usable image.*unreadable_image 8.*listed in .*out.problems.json"):
        run(root)
    assert len(json.loads((tmp_path / "out.problems.json").read_text())["problems"]) == 8
    assert caplog.text.count("JPEGImages/") == 3, "three files are named"
    shutil.rmtree(root)
    run(voc(root))
    assert not (tmp_path / "out.problems.json").exists()


def test_a_root_that_does_not_exist(run, root, monkeypatch):
    with pytest.raises(UserError, match="no dataset in prepare.root .*it does not exist"):
        run(root)
    write(root, "x")
    with pytest.raises(UserError, match="it is not a folder"):
        run(root)
    root.unlink()
    monkeypatch.setenv("HOME", str(voc(root).parent))
    assert run("~/set") == {}


def test_links_to_nothing_are_named(root, run):
    (voc(root) / "notes.txt").symlink_to("gone")
    assert run(root) == {"broken_link": 1}


def test_a_class_in_another_case(root, run):
    with pytest.raises(UserError, match="'Cat' is 'cat' in the data"):
        run(voc(root), classes=["Cat", "dog"])


def test_names_hide_nothing(root, run, caplog):
    write(yolo(root, names=None) / "data.yaml", 'names: ["\\e[31mred", "=cmd|x"]\n')
    picture(root / "images/\x1b[2Jz.jpg")
    with caplog.at_level(logging.INFO):
        run(root)
    assert "\x1b" not in caplog.text and "\\x1b[31mred" in caplog.text and "\\x1b[2Jz.jpg" in caplog.text
    assert "'=cmd|x" in (run.out / "statistics.csv").read_text()
    with pytest.raises(UserError) as error:
        run(root / "\x1b[31m")
    assert "\x1b" not in str(error.value)
