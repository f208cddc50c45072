"""Layouts, splits and formats as people have them, through the whole preparation."""

from __future__ import annotations

import logging

import pytest

from tests.datasets.odd_datasets import (
    STEMS,
    coco,
    voc,
    write,
    xml,
    yolo,
)
from yolov6core.base.errors import UserError
from yolov6core.data.dataset import DetectionDataset

# splits


@pytest.mark.parametrize("make", [voc, yolo])
def test_test_images_never_come_into_training(root, run, make):
    for split, stems in (("train", "abcd"), ("valid", "ef"), ("test", "gh")):
        if make is voc:
            voc(root / split, annotations="{}.xml", images="{}.jpg", stems=stems)
        else:
            yolo(root, images=f"{split}/images/{{}}.jpg", labels=f"{split}/labels/{{}}.txt", stems=stems)
    with pytest.raises(UserError, match="test, train, valid.*prepare.train_split.*prepare.format"):
        run(root)
    assert run(root, val_split="valid") == {}
    assert run.listed("train", "select") == list("abcd") and run.listed("val") == list("ef")


def test_folders_of_splits_in_the_annotations(root, run):
    for split, stems in (("train", "abcd"), ("test", "gh")):
        voc(
            root,
            annotations=split.join(("Annotations/", "/{}.xml")),
            images=f"JPEGImages/{split}/{{}}.jpg",
            stems=stems,
        )
    with pytest.raises(UserError, match="no split val .*test, train"):
        run(root)
    assert run(root, val_split="test") == {} and run.listed("val") == list("gh")


def test_folders_of_splits_in_the_images(root, run):
    for split, stems in (("train", "abcd"), ("valid", "ef"), ("test", "gh")):
        voc(root, images=f"JPEGImages/{split}/{{}}.jpg", stems=stems)
    with pytest.raises(UserError, match="no split val .*test, train, valid"):
        run(root)
    assert run(root, val_split="valid") == {} and run.listed("train", "select") == list("abcd")


def test_a_single_list_is_split_by_chance(root, run):
    write(voc(root) / "ImageSets/Main/default.txt", "\n".join("abcdef"))
    assert run(root) == {} and run.listed("train", "select", "val") == list("abcdef")


def test_lists_beside_main(root, run):
    voc(root)
    (root / "ImageSets/Main").mkdir(parents=True)
    write(root / "ImageSets/train.txt", "\n".join("abcd"))
    write(root / "ImageSets/val.txt", "\n".join("ef"))
    assert run(root) == {} and run.listed("val") == list("ef")


def test_lists_in_other_encodings(root, run):
    voc(root)
    write(root / "ImageSets/Main/train.txt", "a\nb\nc\n", "utf-16")
    write(root / "ImageSets/Main/val.txt", "d\ne\n", "utf-8-sig")
    assert run(root) == {} and run.listed("train", "select") == list("abc")


# folders


def test_the_same_name_in_two_folders(root, run):
    for folder in ("x", "y", "x/deep"):
        voc(root, annotations=f"Annotations/{folder}/{{}}.xml", images=f"JPEGImages/{folder}/{{}}.jpg", stems="ab")
    write(root / "Annotations/y/a.xml", "<annotation/>")
    assert run(root) == {} and len(run.listed("train", "select", "val")) == 6
    sizes = {}
    for split in ("train", "select", "val"):
        data = DetectionDataset(run.out, split)
        sizes |= {path.as_posix(): len(data.load(k)[1]) for k, path in enumerate(data.paths)}
    assert sorted(sizes.values()) == [0, 1, 1, 1, 1, 1] and sizes[f"{root}/JPEGImages/y/a.jpg"] == 0
    run(root, images="copy")
    assert run(run.out, format="auto") == {} if run.out.rename(root.parent / "copy") is None else True
    assert (
        run(root.parent / "copy") == {} and sum(map(int, (run.figures[f"{s}_images"] for s in ("train", "val")))) >= 4
    )


@pytest.mark.parametrize("sub", ["images/train/sub", "images/train"])
def test_sub_folders_of_yolo(root, run, sub):
    yolo(root, images=sub + "/{}.jpg", labels=sub.replace("images", "labels") + "/{}.txt", stems="abcd")
    yolo(root, images="images/val/{}.jpg", labels="labels/val/{}.txt", stems="efgh")
    assert run(root) == {} and run.listed("train", "select") == list("abcd")


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("annots/{}.xml", "images/{}.jpg"),
        ("xml/{}.xml", "img/{}.png"),
        ("labels/x/{}.xml", "photos/deep/{}.jpg"),
        ("Annotations/{}.xml", "JPEGImages/sub/{}.jpg"),
        ("{}.xml", "pictures/{}.jpg"),
        ("data/xml/{}.xml", "data/img/{}.jpg"),
    ],
)
def test_folders_of_other_names(root, run, annotations, images):
    assert run(voc(root, annotations=annotations, images=images)) == {}
    assert run.listed("train", "select", "val") == list(STEMS)


def test_folders_without_a_pair_are_named(root, run):
    voc(root, annotations="xml/{}.xml", images="img/{}.jpg")
    for stem in STEMS:
        (root / f"img/{stem}.jpg").rename(root / f"img/picture_{stem}.jpg")
    with pytest.raises(UserError, match="XML files were seen in .*/set/xml, images in .*/set/img"):
        run(root)


# what looks like another format


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (".idea/misc.xml", "<project/>"),
        ("annotations.xml", "<annotations><image/></annotations>"),
        ("old.xml", xml("cat")),
        ("notes.json", '{"categories": [], "info": {}}'),
        ("images/._a.json", "\0\1"),
        ("annotations/._instances_default.json", "\0\1"),
        ("annotations/notes.json", "[]"),
        ("pom.xml", "<project/>"),
    ],
)
@pytest.mark.parametrize(("make", "kind"), [(yolo, "yolo"), (coco, "coco"), (voc, "voc")])
def test_stray_files_do_not_change_the_format(root, run, make, kind, file, text, caplog):
    write(make(root) / file, text)
    with caplog.at_level(logging.INFO):
        problems = run(root)
    assert f"format {kind}: " in caplog.text and run.listed("train", "select", "val") == list(STEMS)
    assert problems in ({}, {"missing_image": 1}) and (kind == "voc" or problems == {})


@pytest.mark.parametrize("images", ["copy", "reference"])
def test_an_output_as_input(root, run, images):
    run(voc(root), images=images)
    run.out.rename(root.parent / "copied")
    if images == "reference":
        with pytest.raises(UserError, match="an output of prepare-voc2yolo without images"):
            run(root.parent / "copied")
    else:
        assert run(root.parent / "copied") == {}


def test_errors_name_the_choice(root, run):
    yolo(root, names=None)
    with pytest.raises(UserError, match="class names are missing.*prepare.format is auto and took yolo: 8 label file"):
        run(root)
    with pytest.raises(UserError, match="^(?!.*is auto)"):
        run(root, format="yolo")


def test_a_tree_named_like_a_folder_in_it(root, run):
    for split, stems in (("train", "abcd"), ("val", "gh")):
        voc(root / split, annotations="Annotations/{}.xml", images=f"images/{split}/{{}}.jpg", stems=stems)
    assert run(root) == {} and run.listed("val") == ["g", "h"]
