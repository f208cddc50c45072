from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from yolov6core.datasets.annotated import AnnotatedImage, AnnotatedObject, Problem
from yolov6core.datasets.check import BoxRules, check_images, clip_box, turn_box
from yolov6core.datasets.images import Images


@pytest.fixture
def path(tmp_path):
    cv2.imwrite(str(tmp_path / "a.jpg"), np.zeros((80, 100, 3), np.uint8))
    return f"{tmp_path}/a.jpg"


def check(path, *objects, size=(80, 100), **rules):
    images, problems = check_images(Images([AnnotatedImage(path, size, objects)]), BoxRules(**rules))
    return list(images), [problem.kind for problem in problems]


@pytest.mark.parametrize(
    ("box", "kept", "kinds"),
    [
        ((10, 10, 20, 20), (10, 10, 20, 20), []),
        ((0, 0, 100, 80), (0, 0, 100, 80), []),
        ((-5, 10, 120, 20), (0, 10, 100, 20), ["clipped_box"]),
        ((-0.004, 10, 20, 80.004), (0, 10, 20, 80), []),  # rounding of a text format
        ((10, 10, 10, 20), None, ["zero_area_box"]),
        ((20, 10, 10, 20), (10, 10, 20, 20), ["swapped_corners"]),
        ((20, 30, 10, 20), (10, 20, 20, 30), ["swapped_corners"]),
        ((20, 30, 10, 30), None, ["swapped_corners", "zero_area_box"]),
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


@pytest.mark.parametrize(
    ("size", "box", "kept", "kinds"),
    [
        (None, (1, 1, 90, 70), (1, 1, 90, 70), []),
        ((81, 100), (1, 1, 90, 70), (1, 1, 90, 70), ["size_unlike"]),
        (("80", 100), (1, 1, 90, 70), (1, 1, 90, 70), ["size_unlike"]),
        (("[80]", 100), (1, 1, 90, 70), (1, 1, 90, 70), ["size_unlike"]),
        ((160, 200), (20, 40, 100, 160), (10, 20, 50, 80), ["scaled_image"]),
        ((40, 50), (5, 10, 25, 40), (10, 20, 50, 80), ["scaled_image"]),
        ((161, 201), (20.1, 40.25, 100.5, 161), (10, 20, 50, 80), ["scaled_image"]),
        ((100, 80), (1, 1, 95, 70), (1, 1, 95, 70), ["size_unlike"]),  # the sides told in each other's place
        ((100, 80), (1, 1, 90, 90), None, ["size_mismatch"]),
        ((100, 80), (1, 1, 9, 9), None, ["size_mismatch"]),
        ((100, 200), (1, 1, 9, 9), None, ["size_mismatch"]),
    ],
)
def test_annotations_of_another_size(path, size, box, kept, kinds):
    images, found = check(path, AnnotatedObject("cat", box), size=size)
    assert found == kinds
    assert [item.box for image in images for item in image.objects] == ([] if kept is None else [pytest.approx(kept)])
    assert all(image.size == (80, 100) for image in images)


def test_bad_images_are_left_out(tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.jpg").touch()
    assert check(f"{tmp_path}/text.jpg") == ([], ["unreadable_image"])
    assert check(f"{tmp_path}/empty.jpg") == ([], ["unreadable_image"])
    assert check(f"{tmp_path}/gone.jpg") == ([], ["missing_image"])


def test_names_with_line_breaks_are_left_out(path):
    odd = path.replace("a.jpg", "a\nb.jpg")
    assert check(odd) == ([], ["unsafe_path"])


def test_wide_spaces_are_no_control_characters(path):
    for name in ("wide\u3000space.jpg", "narrow\xa0space.jpg", "zero\u200dwidth.jpg"):
        odd = path.replace("a.jpg", name)
        Path(odd).write_bytes(Path(path).read_bytes())
        assert check(odd)[1] == []


def turned(path, orientation):
    """A JPEG with a white box at (10, 20, 40, 60) as stored, and a file that asks for it to be turned."""
    picture = np.zeros((80, 100, 3), np.uint8)
    picture[20:60, 10:40] = 255
    data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0" + bytes([orientation]) + bytes(6)
    name = path.replace("a.jpg", f"turned{orientation}.jpg")
    Path(name).write_bytes(data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:])
    return name


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_of_the_stored_picture_turn_with_it(path, orientation):
    name = turned(path, orientation)
    images, kinds = check(name, AnnotatedObject("cat", (10, 20, 40, 60)))
    assert kinds == ["turned_boxes"] and images[0].size == (100, 80)
    rows, columns = np.nonzero(cv2.imread(name)[..., 0] > 128)
    found = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    assert images[0].objects[0].box == found == turn_box((10, 20, 40, 60), orientation, (80, 100))


@pytest.mark.parametrize(("orientation", "size"), [(6, (100, 80)), (6, None), (3, (80, 100))])
def test_boxes_of_the_turned_picture_stay(path, orientation, size):
    box = AnnotatedObject("cat", (10, 20, 40, 60))
    images, kinds = check(turned(path, orientation), box, size=size)
    assert kinds == ["rotated_image"] and images[0].objects == (box,)


def test_clip_never_inverts():
    assert clip_box((150, 5, 160, 9), (80, 100)) == (100, 5, 100, 9)


def test_kinds_are_checked():
    with pytest.raises(ValueError, match="unknown kind"):
        Problem("no_such", "a.jpg")
