"""Layouts of the one output that detectors of other projects have, told apart by the anchors of the input size.

Letters: B images, A anchors, C classes, K detections. Known layouts, each also with the last two dimensions swapped:

- `objectness` [B, A, 5 + C]: centre x, y, width, height in pixels, objectness, class scores (YOLOv5, YOLOv6, YOLOv7);
- `scores` [B, 4 + C, A]: centre x, y, width, height in pixels, class scores (YOLOv8, YOLO11);
- `detections` [B, K, 6]: x1, y1, x2, y2 in pixels, score, class (YOLOv10 and other files with suppression inside).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

SINGLE_LEVELS = (8, 16, 32)
STRIDES = (4, 8, 16, 32, 64, 128)
FINEST, COARSEST = 16, 32
"""Networks of several levels have a stride up to the first and one from the second on."""
ANCHORS_PER_CELL = (1, 3)
USUAL_LISTS = (100, 200, 300, 500, 1000)
"""Lengths of lists of detections."""
OPEN_CLASSES = 80
"""Classes of a file of `detections` that does not name them: as many as COCO has, more if more come."""
ROUNDING = 1e-3
"""Scores leave 0..1 by so much at most: those of half precision do by rounding."""


class UnknownLayout(ValueError):
    """A network's outputs have no form that is known, whatever runs it."""


@dataclass(frozen=True)
class Layout:
    """One of the layouts, `swapped` if anchors or detections come last."""

    kind: str
    swapped: bool


def anchor_counts(image_size: tuple[int, int], *, several_levels: bool = False) -> frozenset[int]:
    """All numbers of anchors that detectors have for an input of (height, width) pixels.

    Cells of neighbouring strides with one or three anchors each; of a single stride with one.

    Args:
        several_levels: leave out networks of a single stride.
    """
    found: set[int] = set()
    for rounded in (lambda side, stride: side // stride, lambda side, stride: -(-side // stride)):
        cells = [rounded(image_size[0], stride) * rounded(image_size[1], stride) for stride in STRIDES]
        for first in range(STRIDES.index(FINEST) + 1):
            for last in range(STRIDES.index(COARSEST), len(STRIDES)):
                found.update(each * sum(cells[first : last + 1]) for each in ANCHORS_PER_CELL)
        if not several_levels:
            found.update(cells[STRIDES.index(stride)] for stride in SINGLE_LEVELS)
    return frozenset(found - {0})


@lru_cache(maxsize=64)
def layout_of(shape: tuple[int, ...], image_size: tuple[int, int], classes: int) -> Layout:
    """The layout of an output.

    Args:
        shape: of the output, with the real number of images.
        image_size: (height, width) of the input.
        classes: number of class names that the file carries, 0 for none.

    Raises:
        UnknownLayout: it has none of them, or could have several; the message says what was seen.
    """
    found = _candidates(shape, image_size, classes) if len(shape) == 3 else []
    if len(found) == 1:
        return found[0]
    usual = sum((image_size[0] // stride) * (image_size[1] // stride) for stride in (8, 16, 32))
    seen = f"the network gives {list(shape)} for images of {image_size[0]} x {image_size[1]}"
    named = f" and names {classes} classes" if classes else ""
    if found:
        readings = " or ".join(f"{layout.kind}{' swapped' if layout.swapped else ''}" for layout in found)
        raise UnknownLayout(
            f"{seen}{named}, which can be read as {readings}; export it with outputs 'boxes' and 'scores'"
        )
    raise UnknownLayout(
        f"{seen}{named}; 'boxes' [B, A, 4] and 'scores' [B, A, C] are needed, or one output [B, A, 5 + C], "
        f"[B, 4 + C, A] or [B, K, 6]; three levels have A = {usual} anchors here"
    )


def _candidates(shape: tuple[int, ...], image_size: tuple[int, int], classes: int) -> list[Layout]:
    """All readings that an output of three dimensions allows.

    A single level of anchors is believed only where nothing else fits: 15 x 20 cells are 300, as many as the usual list
    of detections is long.
    """
    several, any_levels = anchor_counts(image_size, several_levels=True), anchor_counts(image_size)
    for anchors in (several, any_levels):
        found: list[Layout] = []
        for swapped in (False, True):
            rows, values = (shape[2], shape[1]) if swapped else (shape[1], shape[2])
            named = any_levels if values == 6 and classes else anchors
            kind = _kind(values, classes, swapped=swapped) if rows in named else ""
            found += [Layout(kind, swapped)] if kind else []
            if values == 6 and (not kind or rows in USUAL_LISTS or rows not in several):
                found.append(Layout("detections", swapped))
        if found:
            return found
    return []


def _kind(values: int, classes: int, *, swapped: bool) -> str:
    """By the number of class names; without names as the projects that use this order write it; '' for neither."""
    if classes:
        return {4 + classes: "scores", 5 + classes: "objectness"}.get(values, "")
    if swapped:
        return "scores" if values >= 5 else ""
    return "objectness" if values >= 6 else ""


def read_rows(rows: np.ndarray, layout: Layout, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """One output to boxes [B, A, 4] xyxy pixels and scores [B, A, C] in 0..1, float32. Of detections, A is K.

    Raises:
        UnknownLayout: the values are none of the layout: scores outside of 0..1, classes that are no whole numbers.
    """
    rows = np.asarray(rows, dtype=np.float32)
    rows = rows.transpose(0, 2, 1) if layout.swapped else rows
    if layout.kind == "detections":
        return rows[..., :4], _spread(rows[..., 4], rows[..., 5], classes)
    centre, half = rows[..., :2], rows[..., 2:4] / 2
    boxes = np.concatenate((centre - half, centre + half), axis=2)
    if layout.kind == "scores":
        return boxes, _checked(np.ascontiguousarray(rows[..., 4:]))
    return boxes, _checked(rows[..., 5:]) * _checked(rows[..., 4:5])


def _checked(scores: np.ndarray) -> np.ndarray:
    low, high = float(scores.min(initial=0)), float(scores.max(initial=0))
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):
        raise UnknownLayout(
            f"the network gives scores from {low:.3g} to {high:.3g}, which should lie in 0..1; export it with its "
            "sigmoid, or with outputs 'boxes' and 'scores'"
        )
    return scores


def _spread(scores: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """[B, K, C] of scores [B, K] and class numbers [B, K]; rows without score are padding."""
    scores = _checked(scores)
    counts = scores > 0
    whole = np.where(counts, labels, 0)
    if not np.array_equal(whole, np.rint(whole)) or whole.min(initial=0) < 0 or whole.max(initial=0) > 2**16:
        raise UnknownLayout("the last of the six values of a detection should be its class, and is no whole number")
    whole = whole.astype(np.int64)
    width = max(classes or OPEN_CLASSES, int(whole.max(initial=0)) + 1)
    if classes and width > classes:
        raise UnknownLayout(f"the network finds class {width - 1}, and names {classes} classes")
    spread = np.zeros((*scores.shape, width), np.float32)
    image, rank = np.nonzero(counts)
    spread[image, rank, whole[image, rank]] = scores[image, rank]
    return spread
