from __future__ import annotations

import csv
import json
import logging
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from ruamel.yaml import YAML

from stages.draw_sample import draw_sample
from stages.params import PrepareParams
from stages.prepare_voc2yolo import prepare_voc2yolo
from yolov6core.base.errors import UserError
from yolov6core.param_sections import ParamsError, parse_params

ROOT = Path(__file__).parents[2]
DEFAULTS = PrepareParams(
    root="data/sample_voc",
    format="auto",
    train_split="train",
    val_split="val",
    val_fraction=0.25,
    select_fraction=0.2,
    calib_images=4,
    classes=None,
    difficult="keep",
    min_box=2.0,
    voc_origin=1,
    images="reference",
    strict=False,
    seed=0,
)


def replace(params: PrepareParams, **changes: object) -> PrepareParams:
    """The section with other values, checked."""
    return PrepareParams(**params.model_dump() | changes)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn")
    draw_sample(root, images=16, seed=5)
    # The cases below count on 12 training and 4 validation images: every fourth is for validation.
    for name, validation in (("train", False), ("val", True)):
        rows = [f"shapes_{index:04d}\n" for index in range(16) if (index % 4 == 3) is validation]
        (root / f"ImageSets/Main/{name}.txt").write_text("".join(rows))
    return root


@pytest.fixture
def voc(drawn, tmp_path):
    """A small VOC tree that a test may spoil, and a function that prepares it."""
    root = tmp_path / "voc"
    shutil.copytree(drawn, root)

    def run(**changes):
        figures = prepare_voc2yolo(replace(DEFAULTS, root=str(root), **changes), out=run.out, metrics=run.metrics)
        return {key: value for key, value in figures.items() if value}

    run.root, run.out, run.metrics = root, tmp_path / "dataset", tmp_path / "prepare.json"
    return run


def stems(path):
    return [Path(row).stem for row in path.read_text().splitlines()]


def snapshot(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def spoil(root, index, old, new):
    path = root / "Annotations" / f"shapes_{index:04d}.xml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def problems(figures):
    return {key.removeprefix("problem_"): value for key, value in figures.items() if key.startswith("problem_")}


def test_committed_sample(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    figures = prepare_voc2yolo(replace(DEFAULTS, calib_images=64), out=tmp_path / "d", metrics=tmp_path / "m.json")
    assert {k: figures[k] for k in ("train_images", "select_images", "val_images", "calib_images", "classes")} == {
        "train_images": 299,
        "select_images": 75,
        "val_images": 186,
        "calib_images": 64,
        "classes": 5,
    }
    assert figures["problems"] == 0
    totals = {"images": 560, "boxes": sum(figures[f"{s}_boxes"] for s in ("train", "select", "val"))}
    assert json.loads((tmp_path / "m.json").read_text()) == totals | {"classes": 5, "problems": 0}
    assert all(type(value) is int for value in figures.values())
    first = (tmp_path / "d/train.txt").read_text().splitlines()[0]
    assert first.startswith("data/sample_voc/JPEGImages/") and Path(first).is_file()


def test_folder_and_splits(voc):
    before = snapshot(voc.root)
    figures = voc()
    assert snapshot(voc.root) == before, "the dataset is read only"
    assert problems(figures) == {}
    train, select, val, calib = (stems(voc.out / f"{name}.txt") for name in ("train", "select", "val", "calib"))
    listed = (voc.root / "ImageSets/Main/train.txt").read_text().split()
    assert sorted(train + select) == listed and not set(train) & set(select)
    assert val == (voc.root / "ImageSets/Main/val.txt").read_text().split()
    assert set(calib) <= set(train) and len(calib) == 4
    assert sorted(path.stem for path in (voc.out / "labels").iterdir()) == sorted(train + select + val)
    for split in ("train", "select", "val"):
        document = json.loads((voc.out / f"annotations/instances_{split}.json").read_text())
        paths = (voc.out / f"{split}.txt").read_text().splitlines()
        assert [image["file_name"] for image in document["images"]] == paths
        rows = sum(len((voc.out / "labels" / f"{Path(p).stem}.txt").read_text().splitlines()) for p in paths)
        assert rows == len(document["annotations"]) == figures[f"{split}_boxes"]
    content = YAML(typ="safe", pure=True).load((voc.out / "dataset.yaml").read_text())
    assert content["names"] == ["disc", "rectangle", "ring", "star", "triangle"] and content["nc"] == 5
    assert content["images"] == {"train": len(train), "select": len(select), "val": len(val), "calib": 4}


def test_statistics(voc):
    figures = voc()
    with open(voc.out / "statistics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for split in ("train", "select", "val"):
        own = [row for row in rows if row["split"] == split]
        assert [row["class"] for row in own] == ["disc", "rectangle", "ring", "star", "triangle"]
        assert sum(int(row["boxes"]) for row in own) == figures[f"{split}_boxes"]
        assert all(int(r["small"]) + int(r["medium"]) + int(r["large"]) == int(r["boxes"]) for r in own)
    assert cv2.imread(str(voc.out / "statistics.jpg")).shape == (380, 1080, 3)


def test_sheets_of_labelled_images_lie_beside_the_dataset(voc):
    voc()
    for split in ("train", "val"):
        sheet = cv2.imread(str(voc.out.with_name("labelled") / f"{split}.jpg"))
        assert sheet.shape[1] > 4 * 300 and sheet.std() > 20


def test_same_input_same_bytes(voc):
    voc()
    first = snapshot(voc.out)
    voc()
    assert snapshot(voc.out) == first
    voc(seed=1)
    assert snapshot(voc.out) != first


def test_every_problem_is_counted_and_reported(voc, caplog):
    images, annotations = voc.root / "JPEGImages", voc.root / "Annotations"
    (images / "shapes_0000.jpg").unlink()
    (images / "shapes_0001.jpg").write_bytes((images / "shapes_0001.jpg").read_bytes()[:900])
    (annotations / "shapes_0002.xml").write_text("<annotation><object>")
    (annotations / "shapes_0004.xml").write_text('<!DOCTYPE a [<!ENTITY b "c">]><annotation/>')
    spoil(voc.root, 5, "<width>", "<width>9")
    spoil(voc.root, 6, "<name>", "<name>un")
    spoil(voc.root, 8, "<xmax>", "<xmax>1")
    spoil(voc.root, 9, "<xmin>", "<xmin>x")
    lists = voc.root / "ImageSets/Main"
    (lists / "train.txt").write_text((lists / "train.txt").read_text() + "shapes_0010\nshapes_0003\nshapes_7777\n")
    with caplog.at_level(logging.INFO):
        figures = voc(classes=["disc", "rectangle", "ring", "star", "triangle"])
    found = problems(figures)
    assert found == {
        "duplicate_entry": 1,
        "in_both_splits": 1,
        "missing_annotation": 1,
        "broken_annotation": 2,
        "missing_image": 1,
        "unreadable_image": 1,
        "size_mismatch": 1,
        "broken_object": 1,
        "unknown_class": 1,
        "clipped_box": 1,
    }
    report = json.loads((voc.out / "report.json").read_text())
    assert len(report["problems"]) == figures["problems"] == sum(found.values())
    assert {kind: entry["count"] for kind, entry in report["kinds"].items() if entry["count"]} == found
    assert any("shapes_7777" in problem["where"] for problem in report["problems"])
    assert "unreadable_image: 1" in caplog.text and "shapes_0001.jpg" in caplog.text


def test_strict_stops_and_leaves_the_old_output(voc):
    voc(strict=True)
    before = snapshot(voc.out)
    spoil(voc.root, 0, "<name>", "<name> </name><name>")
    with pytest.raises(UserError, match="1 problem.*prepare.strict is true"):
        voc(strict=True)
    assert snapshot(voc.out) == before
    assert not list(voc.out.parent.glob("*.tmp"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_split": "training"}, "no list ImageSets/Main/training.txt.*train, trainval, val"),
        ({"classes": ["dog"]}, "no usable box in the split 'train'.*unknown_class.*classes in the data: disc"),
        ({"format": "coco"}, "no COCO dataset"),
        ({"format": "yolo"}, "class names are missing"),
    ],
)
def test_nothing_usable_is_fatal(voc, changes, message):
    with pytest.raises(UserError, match=message):
        voc(**changes)
    assert not voc.out.exists() and not voc.metrics.exists()


def test_one_list_for_both_splits_is_split_by_chance(voc):
    figures = voc(val_split=["train"], train_split=["train"])
    assert (figures["train_images"], figures["select_images"], figures["val_images"]) == (7, 2, 3)
    assert problems(figures) == {}


def test_no_dataset_at_all(tmp_path):
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match="no dataset in prepare.root"):
            prepare_voc2yolo(replace(DEFAULTS, root=str(root)), out=tmp_path / "d", metrics=tmp_path / "m.json")


def test_empty_split(voc):
    (voc.root / "ImageSets/Main/val.txt").write_text("\n")
    with pytest.raises(UserError, match="no usable image in the split 'val'"):
        voc()


def test_without_lists_the_split_is_seeded(voc):
    shutil.rmtree(voc.root / "ImageSets")
    figures = voc()
    assert (figures["train_images"], figures["select_images"], figures["val_images"]) == (10, 2, 4)
    first = stems(voc.out / "val.txt")
    voc(seed=9)
    assert stems(voc.out / "val.txt") != first


def test_backgrounds_stay(voc):
    path = voc.root / "Annotations/shapes_0000.xml"
    path.write_text("<annotation></annotation>")
    figures = voc()
    assert problems(figures) == {}
    assert (voc.out / "labels/shapes_0000.txt").read_text() == ""


def test_difficult_objects(voc):
    spoil(voc.root, 0, "<difficult>0", "<difficult>1")
    boxes = voc()
    dropped = voc(difficult="drop")
    keys = ("train_boxes", "select_boxes", "val_boxes")
    assert sum(dropped[key] for key in keys) == sum(boxes[key] for key in keys) - 1


def test_order_of_given_classes(voc):
    voc(classes=["triangle", "star", "ring", "rectangle", "disc"])
    assert 'names: ["triangle", "star", "ring", "rectangle", "disc"]' in (voc.out / "dataset.yaml").read_text()


def test_coco_made_from_voc_gives_the_same_labels(voc, tmp_path):
    voc()
    labels = snapshot(voc.out / "labels")
    (voc.root / "annotations").mkdir(exist_ok=True)
    for split, parts in (("train", ("train", "select")), ("val", ("val",))):
        merged = {"images": [], "annotations": [], "categories": []}
        for part in parts:
            document = json.loads((voc.out / f"annotations/instances_{part}.json").read_text())
            shift = 1000 * len(merged["images"])
            for image in document["images"]:
                name = os.path.relpath(image["file_name"], voc.root)
                merged["images"].append({**image, "id": image["id"] + shift, "file_name": name})
            merged["annotations"] += [{**a, "image_id": a["image_id"] + shift} for a in document["annotations"]]
            merged["categories"] = document["categories"]
        (voc.root / f"annotations/instances_{split}.json").write_text(json.dumps(merged))
    voc(format="coco")
    assert snapshot(voc.out / "labels") == labels


def test_yolo_read_back_gives_the_same_boxes(voc, tmp_path):
    voc()
    root = tmp_path / "yolo"
    (root / "images").mkdir(parents=True)
    (root / "labels").symlink_to(voc.out / "labels")
    (root / "classes.txt").write_text("disc\nrectangle\nring\nstar\ntriangle\n")
    for path in (voc.root / "JPEGImages").iterdir():
        (root / "images" / path.name).symlink_to(path)
    prepare_voc2yolo(replace(DEFAULTS, root=str(root)), out=tmp_path / "again", metrics=voc.metrics)
    names = {path.name for path in (voc.out / "labels").iterdir()}
    assert names == {path.name for path in (tmp_path / "again/labels").iterdir()} and len(names) == 16
    for path in (voc.out / "labels").iterdir():
        rows, again = (np.loadtxt(p, ndmin=2) for p in (path, tmp_path / "again/labels" / path.name))
        assert np.abs(rows - again).max() < 1e-8


@pytest.mark.parametrize("images", ["hardlink", "copy"])
def test_a_folder_for_other_yolo_tools(voc, tmp_path, images):
    """What such tools do: path + train or val, then each image's label at the same place under labels/ for images/."""
    voc()
    lists = {name: stems(voc.out / f"{name}.txt") for name in ("train", "select", "val")}
    plain = snapshot(voc.out)
    voc(images=images)
    now = snapshot(voc.out)
    assert {name: now[name] for name in plain} == plain, "nothing else changes"
    content = YAML(typ="safe", pure=True).load((voc.out / "data.yaml").read_text())
    assert content["names"] == ["disc", "rectangle", "ring", "star", "triangle"] and content["nc"] == 5
    wanted = {"train": lists["train"] + lists["select"], "val": lists["val"]}
    for split, listed in wanted.items():
        found = sorted((Path(content["path"]) / content[split]).iterdir())
        assert [path.stem for path in found] == sorted(listed)
        for path in found:
            source = voc.root / "JPEGImages" / path.name
            assert path.read_bytes() == source.read_bytes() and path.samefile(source) is (images == "hardlink")
            label = Path(str(path).replace("/images/", "/labels/")).with_suffix(".txt")
            assert label.read_bytes() == plain[f"labels/{path.stem}.txt"]
    prepare_voc2yolo(
        replace(DEFAULTS, root=str(voc.out), format="yolo"), out=tmp_path / "again", metrics=tmp_path / "m.json"
    )
    assert sorted(stems(tmp_path / "again/val.txt")) == sorted(lists["val"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("images", "symlink"),
        ("format", "xml"),
        ("voc_origin", 2),
        ("classes", []),
        ("classes", ["a", "a"]),
        ("select_fraction", 0),
        ("train_split", []),
    ],
)
def test_wrong_parameters_are_refused(key, value):
    section = DEFAULTS.model_dump() | {key: value}
    with pytest.raises(ParamsError, match=key):
        parse_params({"prepare": section}, PrepareParams)


@pytest.fixture
def bccd():
    shared = Path(os.environ.get("YOLOV6_SHARED", ROOT.parent / "shared"))
    root = shared / "data/BCCD"
    if not root.is_dir():
        pytest.skip(f"{root} is not there; set YOLOV6_SHARED to the folder that holds data/BCCD")
    return root


@pytest.mark.parametrize(("origin", "kind"), [(1, "tiny_box"), (0, "zero_area_box")])
def test_blood_cells(bccd, tmp_path, origin, kind):
    params = replace(DEFAULTS, root=str(bccd), voc_origin=origin)
    figures = prepare_voc2yolo(params, out=tmp_path / "d", metrics=tmp_path / "m.json")
    assert (figures["train_images"] + figures["select_images"], figures["val_images"]) == (205, 87)
    assert figures["classes"] == 3 and figures["problems"] == figures[f"problem_{kind}"] == 2
    name, *row = (float(v) for v in (tmp_path / "d/labels/BloodImage_00000.txt").read_text().split()[:5])
    assert name == 2, "the first object of the file is a WBC"
    left, top = 260 - origin, 177 - origin
    expected = ((left + 491) / 1280, (top + 376) / 960, (491 - left) / 640, (376 - top) / 480)
    assert row == pytest.approx(expected, abs=1e-9)


def test_labels_coco_and_pictures_agree(voc):
    voc()
    path = (voc.out / "val.txt").read_text().splitlines()[0]
    image = cv2.imread(path)
    rows = np.loadtxt(voc.out / "labels" / f"{Path(path).stem}.txt", ndmin=2)
    assert rows[:, 1:].min() > 0 and rows[:, 1:].max() <= 1
    document = json.loads((voc.out / "annotations/instances_val.json").read_text())
    entry = document["images"][0]
    assert image.shape[:2] == (entry["height"], entry["width"])
    boxes = np.array([a["bbox"] for a in document["annotations"] if a["image_id"] == 1])
    back = rows[:, 1:] * np.array([entry["width"], entry["height"]] * 2)
    np.testing.assert_allclose(back[:, :2] - back[:, 2:] / 2, boxes[:, :2], atol=1e-6)
    np.testing.assert_allclose(back[:, 2:], boxes[:, 2:], atol=1e-6)
