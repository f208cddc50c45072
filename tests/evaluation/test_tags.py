"""Text in pictures: sharp, filled, inside of the picture, in sizes that follow it."""

from __future__ import annotations

import numpy as np
import pytest

from yolov6core.evaluation.plots import draw_boxes
from yolov6core.evaluation.tags import Sizes, shown


@pytest.mark.parametrize("shape", [(80, 100), (480, 640), (1800, 2400), (4000, 300)])
@pytest.mark.parametrize("corner", [(0.0, 0.0), (0.5, 0.5), (0.9, 0.9), (-0.3, 0.4)])
def test_a_tag_is_filled_and_inside(shape, corner) -> None:
    image = np.full((*shape, 3), 128, np.uint8)
    left, top = corner[0] * shape[1], corner[1] * shape[0]
    box = np.array([[left, top, left + 0.5 * shape[1], top + 0.4 * shape[0]]])
    plain = draw_boxes(image, box, np.array([1]), ["", ""])
    tagged = draw_boxes(image, box, np.array([1]), ["cat", "dog"])
    colour = (tagged == (75, 25, 230)).all(axis=2)
    inked = (tagged > 180).all(axis=2)
    text = Sizes.of(image).text
    assert inked.sum() > text and colour.sum() > text**2 / 2, "white letters on a filled box"
    assert (plain != tagged).any() and (image == 128).all()


def test_sizes_follow_the_picture() -> None:
    small, large = (Sizes.of(np.zeros((side, side, 3), np.uint8)) for side in (320, 3200))
    assert large.text == 10 * small.text - 20 or large.text == 80
    assert (small.line, large.line) == (1, 10)


def test_names_that_cannot_be_drawn_are_made_one_short_line() -> None:
    assert shown("a\nb\x1b[31m\u202ec") == "a b [31m c"
    assert len(shown("x" * 500)) == 60
    image = np.zeros((200, 200, 3), np.uint8)
    for name in ("", "a\nb", "\x00", "\u7ea2", "\U0001f600", "x" * 10000, "\ud800"):
        draw_boxes(image, np.array([[20.0, 50, 90, 90]]), np.array([0]), [name], scores=np.array([0.5]))


def test_boxes_far_outside_are_no_matter() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    boxes = np.array([[-1e30, -1e30, 1e30, 1e30], [np.inf, 0, np.nan, 5], [200, 200, 300, 300]])
    assert draw_boxes(image, boxes, np.zeros(3), ["a"]).shape == image.shape
