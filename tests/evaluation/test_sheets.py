"""Sheets show every picture once, with its boxes in their places."""

from __future__ import annotations

import numpy as np
import pytest

from yolov6core.evaluation.sheets import Panel, sheets

SIDE = 120
GREEN = (60, 180, 75)
"""BGR colour of the first class."""


def panel(height: int, width: int, *boxes: list[float]) -> Panel:
    labels = np.array([[0, *box] for box in boxes], dtype=np.float32).reshape(-1, 5)
    return Panel("one", np.full((height, width, 3), 128, np.uint8), labels)


@pytest.mark.parametrize(("count", "rows"), [(1, [1]), (4, [2]), (5, [2, 1]), (9, [2, 2, 1])])
def test_a_sheet_has_the_rows_that_it_needs(count, rows) -> None:
    pages = list(sheets([panel(40, 60)] * count, ["a"], columns=2, rows=2, side=SIDE))
    heights = [page.shape[0] / pages[0].shape[0] * rows[0] for page in pages]
    assert heights == pytest.approx(rows)
    assert sum((page == 128).all(axis=2).sum() for page in pages) == count * 80 * 120, "pictures fill their width"


@pytest.mark.parametrize("size", [(40, 60), (400, 300), (20, 200)])
def test_boxes_are_scaled_with_their_picture(size) -> None:
    height, width = size
    box = [0.25 * width, 0.5 * height, 0.75 * width, 0.9 * height]
    (plain,) = sheets([panel(height, width)], ["a"], side=SIDE)
    (page,) = sheets([panel(height, width, box)], ["a"], side=SIDE)
    grey = np.argwhere((plain == 128).all(axis=2))
    top, left = grey.min(axis=0)
    scale = SIDE / max(size)
    ys, xs = np.nonzero((page == GREEN).all(axis=2))
    assert xs.max() - left == pytest.approx(box[2] * scale, abs=1.5)
    assert ys.max() - top == pytest.approx(box[3] * scale, abs=1.5)
    assert xs.min() - left == pytest.approx(box[0] * scale, abs=1.5)


def test_only_one_sheet_is_taken_at_a_time() -> None:
    taken = []
    pages = sheets((taken.append(i) or panel(20, 20) for i in range(10)), ["a"], columns=2, rows=2, side=SIDE)
    next(pages)
    assert len(taken) == 4
