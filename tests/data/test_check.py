from __future__ import annotations

import cv2
import numpy as np
import pytest

from yolov6core.data.annotated import AnnotatedImage, AnnotatedObject, Problem
from yolov6core.data.check import BoxRules, check_images, clip_box, remove_shared, seeded_part


@pytest.fixture
def path(tmp_path):
    cv2.imwrite(str(tmp_path / "a.jpg"), np.zeros((80, 100, 3), np.uint8))
    return f"{tmp_path}/a.jpg"


def check(path, *objects, size=(80, 100), **rules):
    images, problems = check_images([AnnotatedImage(path, size, objects)], BoxRules(**rules))
    return images, [problem.kind for problem in problems]


@pytest.mark.parametrize(
    ("box", "kept", "kinds"),
    [
        ((10, 10, 20, 20), (10, 10, 20, 20), []),
        ((0, 0, 100, 80), (0, 0, 100, 80), []),
        ((-5, 10, 120, 20), (0, 10, 100, 20), ["clipped_box"]),
        ((-0.004, 10, 20, 80.004), (0, 10, 20, 80), []),  # rounding of a text format
        ((10, 10, 10, 20), None, ["zero_area_box"]),
        ((20, 10, 10, 20), None, ["zero_area_box"]),
        ((100, 10, 120, 20), None, ["outside_box"]),
        ((10, -20, 30, 0), None, ["outside_box"]),
        ((10, 10, 11, 30), None, ["tiny_box"]),
        ((98.5, 10, 130, 30), None, ["tiny_box"]),
    ],
)
def test_fate_of_a_box(path, box, kept, kinds):
    images, found = check(path, AnnotatedObject("cat", box), min_box=2.0)
    assert [item.box for item in images[0].objects] == ([] if kept is None else [kept])
    assert found == kinds


def test_classes_difficult_and_repeats(path):
    cat = AnnotatedObject("cat", (1, 1, 9, 9))
    hard = AnnotatedObject("cat", (5, 5, 30, 30), difficult=True)
    images, kinds = check(path, cat, AnnotatedObject("yak", (1, 1, 9, 9)), cat, hard, classes=frozenset({"cat"}))
    assert images[0].objects == (cat, hard) and kinds == ["unknown_class", "duplicate_box"]
    images, kinds = check(path, cat, hard, keep_difficult=False)
    assert images[0].objects == (cat,) and kinds == []


def test_the_files_own_size_counts(path):
    images, kinds = check(path, AnnotatedObject("cat", (1, 1, 90, 90)), size=(100, 80))
    assert images[0].size == (80, 100) and kinds == ["size_mismatch", "clipped_box"]
    assert check(path, size=None)[1] == []


def test_bad_images_are_left_out(tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.jpg").touch()
    assert check(f"{tmp_path}/text.jpg") == ([], ["unreadable_image"])
    assert check(f"{tmp_path}/empty.jpg") == ([], ["unreadable_image"])
    assert check(f"{tmp_path}/gone.jpg") == ([], ["missing_image"])


def test_clip_never_inverts():
    assert clip_box((150, 5, 160, 9), (80, 100)) == (100, 5, 100, 9)


def test_splits_become_disjoint():
    a, b, c = (AnnotatedImage(f"{name}.jpg", None, ()) for name in "abc")
    train, val, problems = remove_shared([c, b, a, a], [b])
    assert (train, val) == ([a, c], [b])
    assert [problem.kind for problem in problems] == ["duplicate_entry", "in_both_splits"]


def test_seeded_part_is_stable():
    images = [AnnotatedImage(f"{index}.jpg", None, ()) for index in range(100)]
    chosen = {image.path for image in seeded_part(images, 20, 0)}
    assert len(chosen) == 20
    assert chosen == {image.path for image in seeded_part(images[::-1], 20, 0)}
    assert chosen != {image.path for image in seeded_part(images, 20, 1)}
    assert len(chosen & {image.path for image in seeded_part(images[:95], 20, 0)}) >= 15


def test_kinds_are_checked():
    with pytest.raises(ValueError, match="unknown kind"):
        Problem("no_such", "a.jpg")
