"""Statistics of the labels of a dataset: boxes per class, sizes and places, as a table and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from yolov6core.datasets.images import Images

SMALL, MEDIUM = 32.0**2, 96.0**2
"""Areas in square pixels that separate small, medium and large objects, as in COCO."""

_PANEL = 320
_GAP = 30
_BINS = 64
_BARS = 14
_AT_ONCE = 1 << 14  # points
_BLUE, _BLACK = (180, 119, 31), (40, 40, 40)


@dataclass(frozen=True)
class Boxes:
    """Boxes of a split: class index int [n], image index int [n], xyxy in pixels and in fractions, float32 [n, 4]."""

    classes: NDArray[np.int32]
    images: NDArray[np.int32]
    pixels: NDArray[np.float32]
    fractions: NDArray[np.float32]


def collect_boxes(images: Images, names: Sequence[str]) -> Boxes:
    """All boxes of checked images, without crowds."""
    index = {name: position for position, name in enumerate(names)}
    found, codes, owners, pixels = images.arrays(crowds=False)
    classes = np.array([index.get(name, -1) for name in found], dtype=np.int32)[codes]
    sides = np.array(images.sizes(), dtype=np.float32).reshape(-1, 2)[:, [1, 0, 1, 0]]  # width, height, width, height
    fractions = sides[owners]
    np.divide(pixels, fractions, out=fractions)
    return Boxes(classes, owners, pixels, fractions)


def class_rows(split: str, boxes: Boxes, names: Sequence[str]) -> list[dict[str, object]]:
    """One row per class of a split: images and boxes, boxes by area, median width and height in pixels."""
    rows: list[dict[str, object]] = []
    for position, name in enumerate(names):
        own = boxes.classes == position
        sides = boxes.pixels[own, 2:] - boxes.pixels[own, :2]
        area = sides.prod(axis=1)
        width, height = np.median(sides, axis=0) if len(sides) else (0.0, 0.0)
        rows.append(
            {
                "split": split,
                "class": name,
                "images": len(np.unique(boxes.images[own])),
                "boxes": len(sides),
                "small": int((area < SMALL).sum()),
                "medium": int(((area >= SMALL) & (area < MEDIUM)).sum()),
                "large": int((area >= MEDIUM).sum()),
                "median_width": round(float(width), 1),
                "median_height": round(float(height), 1),
            }
        )
    return rows


def statistics_picture(boxes: Boxes, names: Sequence[str]) -> NDArray[np.uint8]:
    """A picture of boxes per class, of their centres and of their sizes, uint8 BGR [h, w, 3]."""
    corners = boxes.fractions
    centres, sides = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    panels = [
        _titled(_bars(np.bincount(boxes.classes, minlength=len(names)), names), f"boxes per class ({len(corners)})"),
        _titled(_density(centres), "centres in the image"),
        _titled(_density(sides)[::-1], "width to the right, height upwards"),
    ]
    gap = np.full((panels[0].shape[0], _GAP, 3), 255, dtype=np.uint8)
    return np.concatenate([gap, panels[0], gap, panels[1], gap, panels[2], gap], axis=1)


def _bars(counts: NDArray[np.int64], names: Sequence[str]) -> NDArray[np.uint8]:
    """Horizontal bars of the most frequent classes in order; the last bar sums up the others."""
    order = np.argsort(-counts, kind="stable")
    shown = [(names[int(k)], int(counts[k])) for k in order[:_BARS]]
    if len(order) > _BARS:
        shown[-1] = (f"{len(order) - _BARS + 1} others", int(counts[order[_BARS - 1 :]].sum()))
    panel = np.full((_PANEL, _PANEL, 3), 255, dtype=np.uint8)
    longest = max((count for _, count in shown), default=0) or 1
    step = _PANEL // max(len(shown), 5)
    for position, (name, count) in enumerate(shown):
        top, length = position * step, round(count / longest * (_PANEL - 150))
        panel[top + 2 : top + step - 2, 100 : 100 + length] = _BLUE
        _write(panel, name[:14], (0, top + step // 2 + 4))
        _write(panel, str(count), (104 + length, top + step // 2 + 4))
    return panel


def _density(points: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Density of points (x, y) in 0..1 on a logarithmic scale of colours; the origin is at the top left."""
    counts = np.zeros((_BINS, _BINS))
    for first in range(0, len(points), _AT_ONCE):  # histogram2d copies its points several times
        x, y = points[first : first + _AT_ONCE].T
        counts += np.histogram2d(y, x, bins=_BINS, range=((0, 1), (0, 1)))[0]
    scaled = np.log1p(counts) / max(float(np.log1p(counts.max())), 1e-9)
    colours = cv2.applyColorMap((scaled * 255).astype(np.uint8), cv2.COLORMAP_VIRIDIS)
    return cast(NDArray[np.uint8], cv2.resize(colours, (_PANEL, _PANEL), interpolation=cv2.INTER_NEAREST))


def _titled(panel: NDArray[np.uint8], title: str) -> NDArray[np.uint8]:
    framed = np.full((panel.shape[0] + 2 * _GAP, panel.shape[1], 3), 255, dtype=np.uint8)
    framed[_GAP:-_GAP] = panel
    _write(framed, title, (0, _GAP - 10))
    return framed


def _write(picture: NDArray[np.uint8], text: str, place: tuple[int, int]) -> None:
    drawn = text.encode("ascii", "replace").decode()  # OpenCV has no other letters
    cv2.putText(picture, drawn, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, _BLACK, 1, cv2.LINE_AA)
