"""Texts, ids and crowds as people have them: a right answer, or one clear message."""

from __future__ import annotations

import json

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
from yolov6core.base.errors import UserError

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
    [
        b"<annotation>\xff\xfe\x00",
        b'<?xml version="1.0" encoding="hex"?><annotation/>',
        b"\xff\xfe\0\0<",
        b"",
        b"\0" * 99,
        b"<?xml version='1.0' encoding='UTF-32'?><annotation/>x",
        b"<annotation>" + b"<a>" * 100000,
    ],
)
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


def test_a_class_that_only_val_has_is_told(root, run):
    voc(root)
    write(root / "Annotations/h.xml", xml("rare"))
    for name, stems in (("train", "abcdef"), ("val", "gh")):
        write(root / f"ImageSets/Main/{name}.txt", "\n".join(stems))
    assert run(root) == {"untrained_class": 1}


def test_a_class_that_has_to_leave_train_is_told(root, run):
    """Two training images, each the only one of its class: one of them selects."""
    voc(root, stems="abgh")
    write(root / "Annotations/a.xml", xml("rare"))
    for name, stems in (("train", "ab"), ("val", "gh")):
        write(root / f"ImageSets/Main/{name}.txt", "\n".join(stems))
    found = run(root)
    assert found["untrained_class"] >= 1 and set(found) == {"untrained_class"}


@pytest.mark.parametrize("seed", range(6))
def test_no_class_leaves_train(root, run, seed):
    voc(root)
    write(root / "Annotations/a.xml", xml("rare"))
    run(root, seed=seed, select_fraction=0.5)
    labels = [(run.out / f"labels/{stem}.txt").read_text()[0] for stem in run.listed("train")]
    assert len(set(labels)) == 3


# ids


@pytest.mark.parametrize("form", ["{}", "{:012d}", " {} "])
@pytest.mark.parametrize(("part", "key"), [("annotations", "image_id"), ("images", "id")])
def test_text_ids_are_taken_for_the_numbers(root, run, form, part, key):
    document = coco_document()
    for entry in document[part]:
        entry[key] = form.format(entry[key])
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


def test_numbers_as_text(root, run):
    document = coco_document()
    for entry in document["annotations"]:
        entry |= {"iscrowd": "0", "category_id": str(entry["category_id"])}
    assert run(coco(root, document)) == {}
    assert sum(run.figures[f"{s}_boxes"] for s in ("train", "select", "val")) == 8


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
