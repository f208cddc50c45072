"""Odd datasets as people have them, through the whole preparation: a right answer, or one clear message."""

from __future__ import annotations

import json
import logging
import os
import shutil
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from stages.params import PrepareParams
from stages.prepare_voc2yolo import prepare_voc2yolo
from yolov6core.base.errors import UserError
from yolov6core.data.dataset import DetectionDataset

STEMS = tuple("abcdefgh")
SECTION = {
    "format": "auto", "train_split": "train", "val_split": "val", "val_fraction": 0.25, "select_fraction": 0.25,
    "calib_images": 2, "classes": None, "difficult": "keep", "min_box": 2.0, "voc_origin": 1, "images": "reference",
    "strict": False, "seed": 0,
}  # fmt: skip


def picture(path, size=(80, 100)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    cv2.imwrite(str(path), image)


def class_of(stem):
    return "cat" if STEMS.index(stem[-1]) % 2 else "dog"


def xml(name, *, corners=(11, 21, 40, 60), size=(80, 100), head=""):
    tags = "".join(f"<{t}>{v}</{t}>" for t, v in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True))
    return (
        f"{head}<annotation><size><width>{size[1]}</width><height>{size[0]}</height></size>"
        f"<object><name>{name}</name><bndbox>{tags}</bndbox></object></annotation>"
    )


def write(path, text, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))


def voc(root, *, annotations="Annotations/{}.xml", images="JPEGImages/{}.jpg", stems=STEMS):
    for stem in stems:
        picture(root / images.format(stem))
        write(root / annotations.format(stem), xml(class_of(stem)))
    return root


def coco_document(stems=STEMS, *, name="{}.jpg", **more):
    return {
        "images": [{"id": n, "file_name": name.format(s), "height": 80, "width": 100} for n, s in enumerate(stems, 1)],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1 + STEMS.index(s) % 2, "bbox": [10, 20, 30, 40]} | more
            for n, s in enumerate(stems, 1)
        ],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
    }


def coco(root, document=None, *, file="annotations/instances_default.json", images="images/{}.jpg", stems=STEMS):
    for stem in stems:
        picture(root / images.format(stem))
    write(root / file, json.dumps(coco_document(stems) if document is None else document))
    return root


def yolo(root, *, images="images/{}.jpg", labels="labels/{}.txt", names="classes.txt", stems=STEMS):
    for stem in stems:
        picture(root / images.format(stem))
        write(root / labels.format(stem), f"{STEMS.index(stem[-1]) % 2} 0.25 0.5 0.3 0.5\n")
    if names:
        write(root / names, "dog\ncat\n")
    return root


@pytest.fixture
def run(tmp_path):
    def prepare(root, **changes):
        params = PrepareParams(**SECTION | {"root": str(root)} | changes)
        figures = prepare_voc2yolo(params, out=tmp_path / "out", metrics=tmp_path / "m.json")
        run.figures = {key: value for key, value in figures.items() if value}
        return {key[8:]: value for key, value in run.figures.items() if key.startswith("problem_")}

    def listed(*splits):
        rows = (row for split in splits for row in (tmp_path / f"out/{split}.txt").read_text().splitlines())
        return sorted(Path(row).stem for row in rows)

    run = prepare
    run.listed, run.out, run.figures = listed, tmp_path / "out", {}
    return run


@pytest.fixture
def root(tmp_path):
    return tmp_path / "set"


# encodings


@pytest.mark.parametrize("encoding", ["GBK", "GB2312", "Shift_JIS", "EUC-KR", "UTF-32", "UTF-16", "Big5", "latin-1"])
def test_xml_of_declared_encodings(root, run, encoding):
    name = {"EUC-KR": "고양이", "latin-1": "Bär"}.get(encoding, "犬")
    write(voc(root) / "Annotations/a.xml", xml(name, head=f'<?xml version="1.0" encoding="{encoding}"?>'), encoding)
    assert run(root) == {}
    assert name in (run.out / "dataset.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("head", ["", '<?xml version="1.0" encoding="utf-8"?>'])
def test_xml_of_another_encoding_than_told(root, run, head):
    write(voc(root) / "Annotations/a.xml", xml("安全帽", head=head), "gbk")
    assert run(root) == {"guessed_encoding": 1}
    assert "安全帽" in (run.out / "dataset.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "data",
    [b"<annotation>\xff\xfe\x00", b'<?xml version="1.0" encoding="hex"?><annotation/>', b"\xff\xfe\0\0<", b"",
     b"\0" * 99, b"<?xml version='1.0' encoding='UTF-32'?><annotation/>x", b"<annotation>" + b"<a>" * 100000],
)  # fmt: skip
def test_no_parser_exception_leaves_a_reader(root, run, data):
    (voc(root) / "Annotations/a.xml").write_bytes(data)
    assert run(root) == {"broken_annotation": 1}


@pytest.mark.parametrize(("encoding", "found"), [("gbk", {"guessed_encoding": 1}), ("utf-16", {}), ("utf-8-sig", {})])
@pytest.mark.parametrize(("file", "text"), [("classes.txt", "人\n车辆\n"), ("data.yaml", "names: [人, 车辆]\n")])
def test_names_in_other_encodings(root, run, encoding, found, file, text):
    write(yolo(root, names=None) / file, text, encoding)
    assert run(root) == found
    assert '"人", "车辆"' in (run.out / "dataset.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_labels_with_a_mark_lose_no_box(root, run, encoding):
    write(yolo(root) / "labels/a.txt", "0 .5 .5 .2 .2\n1 .5 .5 .4 .4\n", encoding)
    assert run(root) == {} and sum(run.figures[f"{s}_boxes"] for s in ("train", "select", "val")) == 9


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "gbk"])
def test_coco_in_other_encodings(root, run, encoding):
    coco(root)
    document = coco_document()
    document["categories"][0]["name"] = "安全帽"
    write(root / "annotations/instances_default.json", json.dumps(document, ensure_ascii=False), encoding)
    assert run(root) == ({"guessed_encoding": 1} if encoding == "gbk" else {})


# crowds, and splits without boxes


def test_only_crowds_are_an_error(root, run):
    with pytest.raises(UserError, match="only crowd regions .*iscrowd: 1.*set iscrowd to 0"):
        run(coco(root, coco_document(iscrowd=1)))


def test_a_class_of_crowds_is_told(root, run):
    document = coco_document()
    document["annotations"][0] |= {"iscrowd": 1, "category_id": 3}
    document["categories"].append({"id": 3, "name": "bird"})
    assert run(coco(root, document)) == {"crowd_only": 1}
    assert sum(run.figures[f"{s}_boxes"] for s in ("train", "select", "val")) == 7, "crowds are no boxes"


def test_select_without_boxes_is_an_error(root, run):
    voc(root)
    for stem in STEMS[1:6]:
        write(root / f"Annotations/{stem}.xml", "<annotation/>")
    for name, stems in (("train", "abcdef"), ("val", "gh")):
        write(root / f"ImageSets/Main/{name}.txt", "\n".join(stems))
    with pytest.raises(UserError, match="no usable box in the split 'select'.*raise prepare.select_fraction"):
        run(root)
    assert not run.out.exists()


@pytest.mark.parametrize("seed", range(6))
def test_no_class_leaves_train(root, run, seed):
    voc(root)
    write(root / "Annotations/a.xml", xml("rare"))
    run(root, seed=seed, select_fraction=0.5)
    labels = [(run.out / f"labels/{stem}.txt").read_text()[0] for stem in run.listed("train")]
    assert len(set(labels)) == 3


# ids


def test_text_ids_are_taken_for_the_numbers(root, run):
    document = coco_document()
    for entry in document["annotations"]:
        entry["image_id"] = str(entry["image_id"])
    assert run(coco(root, document)) == {"mended_id": 1}
    assert sum(run.figures[f"{s}_boxes"] for s in ("train", "select", "val")) == 8


def test_orphans_and_odd_ids_are_counted(root, run):
    document = coco_document()
    document["annotations"] += [
        {"id": 9, "category_id": 1, "bbox": [1, 1, 9, 9], "image_id": i} for i in (77, None, [1])
    ]
    document["annotations"] += [None, 3, {"id": 12, "image_id": 1, "category_id": [1], "bbox": [1, 1, 9, 9]}]
    for place, own in ((0, None), (1, ["x"]), (2, 4)):
        document["images"][place]["id"] = own
    problems = run(coco(root, document))
    assert problems == {"bad_image_id": 4, "orphan_annotation": 6, "broken_object": 3}


def test_an_image_listed_twice_keeps_both_sets(root, run):
    document = coco_document()
    document["images"].append(document["images"][0] | {"id": 50})
    document["annotations"].append({"id": 50, "image_id": 50, "category_id": 2, "bbox": [50, 5, 20, 20]})
    assert run(coco(root, document)) == {"merged_entry": 1}
    assert len((run.out / "labels/a.txt").read_text().splitlines()) == 2


def test_categories(root, run):
    document = coco_document()
    document["categories"] = [{"id": "1", "name": "dog"}, {"id": 2, "name": "cat"}, {"id": 1, "name": "dog"}]
    assert run(coco(root, document)) == {"repeated_class": 1}
    document["categories"].append({"id": 2, "name": "bird"})
    with pytest.raises(UserError, match="category id 2 is given to 'cat' and to 'bird'"):
        run(coco(root, document))
    document["categories"] = [{"id": 1, "name": None}]
    with pytest.raises(UserError, match="category id 1 has the name None"):
        run(coco(root, document))


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
        ("annots/{}.xml", "images/{}.jpg"), ("xml/{}.xml", "img/{}.png"), ("labels/x/{}.xml", "photos/deep/{}.jpg"),
        ("Annotations/{}.xml", "JPEGImages/sub/{}.jpg"), ("{}.xml", "pictures/{}.jpg"),
        ("data/xml/{}.xml", "data/img/{}.jpg"),
    ],
)  # fmt: skip
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


# pictures


def spoiled_png(path):
    picture(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)


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
        assert run(root, decode=decode) == {"undecodable_image": 5} and run.listed("train", "select") == ["e", "f"]


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
    [(yolo, "classes.txt"), (yolo, "data.yaml"), (coco, "annotations/instances_default.json"),
     (voc, "ImageSets/Main/train.txt")],
)  # fmt: skip
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
    chunk = struct.pack(">I", len(content)) + b"IDAT" + content + struct.pack(">I", zlib.crc32(b"IDAT" + content))
    data = (root / "JPEGImages/a.png").read_bytes()
    (root / "JPEGImages/a.png").write_bytes(data[:33] + chunk + data[-12:])
    assert run(root) == {"undecodable_image": 1}
