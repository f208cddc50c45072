"""Sheets of pictures with their boxes and names, as many pages as it takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from yolov6core.data.transforms import fitted_size
from yolov6core.evaluation.plots import draw_boxes, stack_rows, titled

Image = NDArray[np.uint8]
_GAP = 6
"""White pixels between pictures."""


@dataclass(frozen=True)
class Panel:
    """One picture of a sheet.

    Attributes:
        title: written above it.
        image: uint8 BGR [h, w, 3].
        labels: [n, 5] class, xyxy in pixels of the image.
    """

    title: str
    image: Image
    labels: NDArray[Any]


def sheets(
    panels: Iterable[Panel], names: Sequence[str], *, columns: int = 4, rows: int = 3, side: int = 360
) -> Iterator[Image]:
    """Sheets uint8 BGR of `rows` times `columns` pictures; the last one has the rows that it needs.

    Args:
        panels: taken as they are needed, so that only one sheet is in memory.
        names: class names by class index.
        side: every picture is fitted into a square of so many pixels.
    """
    panels = iter(panels)
    while page := list(islice(panels, rows * columns)):
        cells = [_cell(panel, names, side) for panel in page]
        yield stack_rows([_row(cells[i : i + columns]) for i in range(0, len(cells), columns)])


def _row(cells: Sequence[Image]) -> Image:
    """Pictures side by side, white below the lower ones."""
    row = np.full((max(len(cell) for cell in cells), sum(cell.shape[1] for cell in cells), 3), 255, dtype=np.uint8)
    left = 0
    for cell in cells:
        row[: len(cell), left : left + cell.shape[1]] = cell
        left += cell.shape[1]
    return row


def _cell(panel: Panel, names: Sequence[str], side: int) -> Image:
    """The picture with its title; white makes it `side` wide and keeps it off its neighbours."""
    height, width = fitted_size(panel.image.shape[:2], (side, side))
    shrinks = width < panel.image.shape[1]
    image = cv2.resize(panel.image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    scale = np.array([width / panel.image.shape[1], height / panel.image.shape[0]] * 2)
    drawn = draw_boxes(np.asarray(image, dtype=np.uint8), panel.labels[:, 1:5] * scale, panel.labels[:, 0], names)
    framed = np.full((height + _GAP, side + _GAP, 3), 255, dtype=np.uint8)
    framed[:height, :width] = drawn
    return titled(framed, panel.title)
