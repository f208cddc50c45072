from __future__ import annotations

import pytest

from yolov6core.datasets.annotated import DatasetError, count_problems
from yolov6core.datasets.voc import AnnotationError, find_voc, parse_voc, read_list, read_voc, voc_box


def xml(*objects: str, size: str = "<size><width>100</width><height>80</height><depth>3</depth></size>") -> bytes:
    return f"<annotation><filename>a.jpg</filename>{size}{''.join(objects)}</annotation>".encode()


def item(name: str, *corners: object, more: str = "") -> str:
    tags = "".join(f"<{t}>{v}</{t}>" for t, v in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True))
    return f"<object><name>{name}</name>{more}<bndbox>{tags}</bndbox></object>"


def test_inclusive_pixels_become_continuous_boxes():
    assert voc_box((1, 1, 100, 80)) == (0, 0, 100, 80)  # the whole of a 100 x 80 image
    assert voc_box((7, 9, 7, 9)) == (6, 8, 7, 9)  # one pixel
    assert voc_box((0, 0, 100, 80), origin=0) == (0, 0, 100, 80)


def test_parse_reads_names_boxes_and_flags():
    parsed = parse_voc(
        xml(item("cat", 1, 2, 30, 40), item(" dog ", "10.5", "20", "30.25", "40", more="<difficult>1</difficult>"))
    )
    assert parsed.size == (80, 100)
    assert [(o.name, o.box, o.difficult) for o in parsed.objects] == [
        ("cat", (0, 1, 30, 40), False),
        ("dog", (9.5, 19, 30.25, 40), True),
    ]
    assert parsed.problems == ()


def test_one_bad_object_costs_itself_only():
    parsed = parse_voc(
        xml(
            item("", 1, 1, 2, 2),
            "<object><name>cat</name></object>",
            item("cat", 1, 1, "x", 2),
            item("cat", 1, 1, "nan", 2),
            item("cat", 1, 1, "inf", 2),
            item("dog", 1, 1, 9, 9),
        )
    )
    assert [o.name for o in parsed.objects] == ["dog"]
    assert [p.kind for p in parsed.problems] == ["broken_object"] * 5


def test_parts_of_an_object_are_not_objects():
    part = "<part><name>head</name><bndbox><xmin>3</xmin><ymin>3</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></part>"
    parsed = parse_voc(xml(item("person", 1, 1, 50, 50, more=part)))
    assert [(o.name, o.box) for o in parsed.objects] == [("person", (0, 0, 50, 50))]


@pytest.mark.parametrize(
    "size",
    [
        "",
        "<size/>",
        "<size><width>0</width><height>0</height></size>",
        "<size><width>x</width><height>2</height></size>",
    ],
)
def test_size_is_optional(size):
    assert parse_voc(xml(size=size)).size is None


def test_zero_coordinates_are_told_in_data_counted_from_one():
    data = xml(item("cat", 0, 5, 30, 40))
    assert [p.kind for p in parse_voc(data).problems] == ["zero_coordinate"]
    assert parse_voc(data, origin=0).problems == ()


LAUGHS = b"""<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;&a;&a;">]>
<annotation><object><name>&b;</name></object></annotation>"""


@pytest.mark.parametrize(
    "data",
    [
        LAUGHS,
        LAUGHS.decode().replace('"1.0"', '"1.0" encoding="utf-16"').encode("utf-16"),
        b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>',
    ],
)
def test_document_types_are_refused(data):
    with pytest.raises(AnnotationError, match="document types"):
        parse_voc(data)


@pytest.mark.parametrize(
    "data",
    [b"", b"<annotation>", b"<html/>", b"\0\1\2", b"plain", b'<?xml version="1.0" encoding="no-such"?><annotation/>'],
)
def test_broken_files_are_named(data):
    with pytest.raises(AnnotationError, match="XML|root element"):
        parse_voc(data)


def test_other_encodings():
    text = '<?xml version="1.0" encoding="{}"?>' + xml(item("Bär", 1, 1, 9, 9)).decode()
    for encoding in ("utf-8", "utf-16", "latin-1"):
        assert parse_voc(text.format(encoding).encode(encoding)).objects[0].name == "Bär"


def test_list_rows():
    text = "a\n\n b \nc  1\nd -1\ne 0\nf.jpg\nwith space 1\na\n2008_000001\nv1.2\n"
    names, repeated = read_list(text, known={"with space 1"})
    assert names == ["a", "b", "c", "e", "f", "with space 1", "2008_000001", "v1.2"]
    assert repeated == ["a"]


@pytest.fixture
def tree(tmp_path):
    """A VOC tree without readable images: the reader looks at names only."""

    def make(root, stems, lists):
        for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        for stem in stems:
            (root / "Annotations" / f"{stem}.xml").write_bytes(xml(item("cat", 1, 1, 9, 9)))
            (root / "JPEGImages" / f"{stem}.jpg").touch()
        for name, rows in lists.items():
            (root / "ImageSets/Main" / f"{name}.txt").write_text("".join(f"{row}\n" for row in rows))
        return root

    make.path = tmp_path
    return make


def stems(images):
    return [image.stem for image in images]


def test_read_by_lists(tree):
    root = tree(tree.path / "set", ["a", "b", "c"], {"train": ["a", "b", "gone", "a"], "val": ["c"]})
    source = read_voc(str(root))
    assert {name: stems(images) for name, images in source.splits.items()} == {"train": ["a", "b"], "val": ["c"]}
    assert {k: v for k, v in count_problems(source.problems).items() if v} == {
        "duplicate_entry": 1,
        "missing_annotation": 1,
    }
    assert source.splits["val"][0].path == f"{root}/JPEGImages/c.jpg"


def test_a_broken_file_costs_itself_only(tree):
    root = tree(tree.path, ["a", "b", "c", "d"], {"train": ["a", "b", "c"], "val": ["d"]})
    (root / "Annotations/a.xml").write_text("<annotation><object>")
    (root / "JPEGImages/b.jpg").unlink()
    (root / "JPEGImages/c.png").touch()
    source = read_voc(str(root))
    assert stems(source.splits["train"]) == ["c"]
    assert [p.kind for p in source.problems] == ["broken_annotation", "missing_image", "ambiguous_image"]


def test_several_years_side_by_side(tree):
    tree(tree.path / "VOCdevkit/VOC2007", ["000001", "000002"], {"trainval": ["000001"], "test": ["000002"]})
    tree(tree.path / "VOCdevkit/VOC2012", ["2008_1", "2008_2"], {"trainval": ["2008_1"], "test": ["2008_2"]})
    source = read_voc(str(tree.path), train_split=["trainval"], val_split=["VOC2007/test"])
    assert stems(source.splits["train"]) == ["000001", "2008_1"]
    assert stems(source.splits["val"]) == ["000002"]


def test_missing_list_names_those_that_exist(tree):
    root = tree(tree.path, ["a"], {"train": ["a"], "test": ["a"]})
    with pytest.raises(DatasetError, match="no list ImageSets/Main/val.txt.*test, train"):
        read_voc(str(root))


def test_without_lists_and_beside_the_images(tmp_path):
    for stem in ("b", "a"):
        (tmp_path / f"{stem}.xml").write_bytes(xml())
        (tmp_path / f"{stem}.JPG").touch()
    (tmp_path / "lonely.png").touch()
    source = read_voc(str(tmp_path))
    assert stems(source.splits["all"]) == ["a", "b"]
    assert [p.kind for p in source.problems] == ["missing_annotation"]


def test_folders_named_like_splits(tmp_path):
    for split, stem in (("train", "a"), ("valid", "b"), ("test", "c")):
        (tmp_path / split).mkdir()
        (tmp_path / split / f"{stem}.xml").write_bytes(xml())
        (tmp_path / split / f"{stem}.jpg").touch()
    source = read_voc(str(tmp_path), val_split=["valid"])
    assert {name: stems(images) for name, images in source.splits.items()} == {"train": ["a"], "val": ["b"]}


def test_no_dataset(tmp_path):
    with pytest.raises(DatasetError, match="no VOC dataset"):
        find_voc(str(tmp_path))
    with pytest.raises(DatasetError, match="not a folder"):
        find_voc(str(tmp_path / "nowhere"))
