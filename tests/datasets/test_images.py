"""Images as columns of numbers: nothing is lost, and little memory is taken."""

from __future__ import annotations

import tracemalloc

import pytest

from yolov6core.datasets.annotated import AnnotatedImage, AnnotatedObject
from yolov6core.datasets.images import Images

CAT = AnnotatedObject("cat", (1.25, 2.0, 30.1, 40.0), difficult=True)
DOG = AnnotatedObject("dog", (0.0, 0.0, 1e-9, 5000.0), crowd=True)
A, B = AnnotatedImage("set/ä.jpg", (80, 100), (CAT, DOG, CAT)), AnnotatedImage("set/b.png", None, ())
C = AnnotatedImage("set/\udcff.jpg", (80, 100), (DOG,))  # a name that is not UTF-8 on disk


def test_what_goes_in_comes_out():
    images = Images([A, B, C])
    assert list(images) == [A, B, C] and len(images) == 3
    assert images[0] == A and images[-1] == C
    assert list(images.paths()) == [image.path for image in (A, B, C)]
    assert images.sizes() == [(80, 100), None, (80, 100)]
    assert list(images.class_names()) == [["cat", "dog", "cat"], [], ["dog"]]
    assert images.class_counts() == {"cat": 2, "dog": 2}
    with pytest.raises(IndexError):
        images[3]


def test_parts():
    images = Images([A, B, C])
    part = images.part([2, 0])
    assert list(part) == [C, A] and part[1] == A and part.class_counts() == {"cat": 2, "dog": 2}
    assert list(part.part([1])) == [A]
    chosen, rest = images.divide([2, 0])
    assert list(chosen) == [A, C] and list(rest) == [B] and rest.class_counts() == {}
    with pytest.raises(ValueError, match="cannot grow"):
        part.append(B)


def test_revised_images_stand_in_the_place_of_the_old_ones():
    images = Images([A, B, C])
    turned = AnnotatedImage("set/b.png", (5, 6), (DOG,))
    revised = images.revised(lambda image: {A.path: None, B.path: turned}.get(image.path, image))
    assert list(revised) == [turned, C]
    assert list(images) == [A, B, C], "the old ones are as they were"


def test_a_slice_is_a_part():
    images = Images([A, B, C])
    assert isinstance(images[1:], Images) and list(images[1:]) == [B, C]
    assert list(images[::-1]) == [C, B, A] and list(images[:-1][1:]) == [B] and list(images[5:]) == []
    assert images[-1] == images[1:][1] == C
    with pytest.raises(IndexError):
        images[3]


def test_arrays():
    names, classes, owners, boxes = Images([A, B, C]).part([2, 1, 0]).arrays()
    assert [names[code] for code in classes] == ["dog", "cat", "dog", "cat"]
    assert owners.tolist() == [0, 2, 2, 2]
    assert boxes.tolist() == [pytest.approx(item.box) for item in (DOG, *A.objects)]
    assert Images().arrays()[3].shape == (0, 4)


def test_memory_of_an_image():
    """Objects would take 1000 bytes for an image of three boxes."""
    count = 2000
    tracemalloc.start()
    try:
        images = Images(A._replace(path=f"VOC2012/JPEGImages/{index:06d}.jpg") for index in range(count))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(images) == count and taken < 250 * count
