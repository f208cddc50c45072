from __future__ import annotations

import json

import pytest

from yolov6core.datasets.annotated import AnnotatedImage, AnnotatedObject, DatasetError
from yolov6core.datasets.coco import is_coco, read_coco
from yolov6core.datasets.images import Images
from yolov6core.datasets.write import coco_text

CATEGORIES = [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}]


def document(*annotations, images=("a.jpg",)):
    entries = [{"id": index, "file_name": name, "height": 80, "width": 100} for index, name in enumerate(images)]
    return {"images": entries, "annotations": list(annotations), "categories": CATEGORIES}


def box(image_id, category, *xywh, **more):
    return {"id": 1, "image_id": image_id, "category_id": category, "bbox": list(xywh), **more}


def write(root, name, content, images=("a.jpg",), folder="images"):
    for sub in ("annotations", folder):
        (root / sub).mkdir(parents=True, exist_ok=True)
    for image in images:
        (root / folder / image).touch()
    text = content if isinstance(content, str) else json.dumps(content)
    (root / "annotations" / f"{name}.json").write_text(text)


def test_splits_classes_and_crowds(tmp_path):
    write(tmp_path, "instances_train2017", document(box(0, 18, 1, 2, 30, 40), box(0, 1, 5, 5, 9, 9, iscrowd=1)))
    write(tmp_path, "instances_val2017", document(images=("b.jpg",)), images=("b.jpg",), folder="val2017")
    assert is_coco(str(tmp_path))
    source = read_coco(str(tmp_path), train_split=["train2017"], val_split=["val2017"])
    [image] = source.splits["train"]
    assert image.objects == (
        AnnotatedObject("dog", (1, 2, 31, 42)),
        AnnotatedObject("person", (5, 5, 14, 14), crowd=True),
    )
    assert image.size == (80, 100) and image.path == f"{tmp_path}/images/a.jpg"
    assert [i.path for i in source.splits["val"]] == [f"{tmp_path}/val2017/b.jpg"]
    assert source.names == ("person", "dog"), "in the order of the ids"


def test_bad_entries_cost_themselves_only(tmp_path):
    bad = [box(0, 99, 1, 1, 2, 2), box(0, 1, 1, 1, 2), box(0, 1, 1, 1, 2, float("nan")), {"id": 5, "image_id": 0}]
    write(tmp_path, "instances", document(*bad, box(0, 1, 1, 1, 2, 2), images=("a.jpg", "gone.jpg")))
    source = read_coco(str(tmp_path))
    assert len(source.splits["all"][0].objects) == 1
    assert [p.kind for p in source.problems] == ["broken_object"] * 4 + ["missing_image"]


def test_what_is_written_can_be_read(tmp_path):
    objects = (AnnotatedObject("dog", (1.5, 2, 30, 40)), AnnotatedObject("person", (0, 0, 100, 80)))
    written = "".join(coco_text(Images([AnnotatedImage("a.jpg", (80, 100), objects)]), ["person", "dog"]))
    write(tmp_path, "instances", written)
    [image] = read_coco(str(tmp_path)).splits["all"]
    assert image.objects == objects


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"images": []}', '{"images": [1], "annotations": [], "categories": []}']
)
def test_other_json_is_refused(tmp_path, content):
    write(tmp_path, "instances", content)
    with pytest.raises(DatasetError, match="not valid JSON|not a COCO file"):
        read_coco(str(tmp_path))


def test_missing_split_names_those_that_exist(tmp_path):
    write(tmp_path, "instances_train", document())
    write(tmp_path, "instances_test", document())
    with pytest.raises(DatasetError, match="no annotations/instances_val.json.*test, train"):
        read_coco(str(tmp_path))
    with pytest.raises(DatasetError, match="no COCO dataset"):
        read_coco(str(tmp_path / "images"))


@pytest.mark.parametrize("name", ["../a.jpg", "x/../../a.jpg", "/a.jpg", "C:\\a.jpg", "..\\a.jpg", "a\n.jpg", ""])
def test_names_may_not_leave_the_folder(tmp_path, name):
    root = tmp_path / "set"
    write(root, "instances", document(images=(name, "b.jpg")), images=("b.jpg",))
    (tmp_path / "a.jpg").touch()
    (root / "a.jpg").touch()
    source = read_coco(str(root))
    assert [image.stem for image in source.splits["all"]] == ["b"]
    assert [p.kind for p in source.problems] == ["unsafe_path"]


@pytest.mark.parametrize(("told", "size"), [("80", ("80", 100)), ([80], ("[80]", 100)), (0, None)])
def test_sizes_are_taken_as_told(tmp_path, told, size):
    content = document()
    content["images"][0] |= {"height": told, "width": 100}
    write(tmp_path, "instances", content)
    assert read_coco(str(tmp_path)).splits["all"].sizes() == [size]
