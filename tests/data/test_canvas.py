"""Pictures letterboxed into memory that is used again, against the letterbox that makes new memory."""

from __future__ import annotations

import numpy as np
import pytest

from yolov6core.data.canvas import Canvas
from yolov6core.data.transforms import letterbox

NO_LABELS = np.zeros((0, 5), np.float32)


@pytest.mark.parametrize("inside", [None, (48, 80)])
@pytest.mark.parametrize("nearest", [True, False])
def test_every_picture_lies_as_letterbox_lays_it(inside, nearest):
    """One after the other in one slot: larger, smaller, wider, of the same size, and cut out of another picture."""
    rng = np.random.default_rng(0)
    canvas = Canvas(2, (64, 96), inside=inside, nearest=nearest)
    sizes = [(64, 96), (31, 17), (200, 333), (200, 333), (96, 64), (1, 500), (48, 80)]
    pictures = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    for picture in [*pictures, pictures[2][20:150, 7:99]]:
        wanted, _, where = letterbox(picture, NO_LABELS, size=(64, 96), inside=inside, nearest=nearest)
        assert canvas.put(1, picture) == where
        np.testing.assert_array_equal(canvas.pixels[1], wanted)
    np.testing.assert_array_equal(canvas.pixels[0], 114)
