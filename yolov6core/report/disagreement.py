"""Where two engines disagree: detections of one against those of the other, image by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SHOWN_SCORE = 0.3
"""Detections of at least this score are drawn, and count."""
SAME = 0.5
"""Two boxes of one class whose overlap (IoU) is at least this are one object."""
Found = NDArray[np.float64]
NONE = np.zeros((0, 6))


@dataclass(frozen=True)
class Pairing:
    """Detections of two engines on one image, matched.

    Attributes:
        pairs: [P, 2] rows in the first and the second list.
        only_first, only_second: rows that the other has nothing for.
        difference: sum of the differences of scores of pairs, and of the scores of what only one has.
    """

    pairs: list[tuple[int, int]]
    only_first: list[int]
    only_second: list[int]
    difference: float


def pair_up(first: Found, second: Found) -> Pairing:
    """Match detections [N, 6] and [M, 6] (x1, y1, x2, y2, score, class) of one image, the best overlap first.

    Pairs count in which one has at least `SHOWN_SCORE`, and so do detections of that score without a partner.
    """
    overlap = iou(first[:, :4], second[:, :4]) * (first[:, None, 5] == second[None, :, 5])
    pairs, free_first, free_second = [], set(range(len(first))), set(range(len(second)))
    for flat in np.argsort(-overlap, axis=None, kind="stable").tolist():
        row, column = divmod(flat, len(second))
        if overlap[row, column] < SAME:
            break
        if row in free_first and column in free_second:
            free_first.remove(row)
            free_second.remove(column)
            pairs.append((row, column))
    seen = [(a, b) for a, b in pairs if max(first[a, 4], second[b, 4]) >= SHOWN_SCORE]
    only_first = [row for row in sorted(free_first) if first[row, 4] >= SHOWN_SCORE]
    only_second = [row for row in sorted(free_second) if second[row, 4] >= SHOWN_SCORE]
    difference = sum(abs(float(first[a, 4] - second[b, 4])) for a, b in seen)
    difference += float(first[only_first, 4].sum() + second[only_second, 4].sum())
    return Pairing(seen, only_first, only_second, difference)


def iou(first: Found, second: Found) -> Found:
    """Overlap [N, M] of boxes [N, 4] and [M, 4], intersection over union."""
    corner = np.maximum(first[:, None, :2], second[None, :, :2])
    other = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = (other - corner).clip(0).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (first, second)]
    return shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-9)


def most_different(first: Mapping[int, Found], second: Mapping[int, Found], *, limit: int) -> list[tuple[int, Pairing]]:
    """Images with the largest differences, the largest first; none without any."""
    images = sorted(first.keys() | second.keys())
    paired = [(image, pair_up(first.get(image, NONE), second.get(image, NONE))) for image in images]
    ranked = sorted(paired, key=lambda item: -item[1].difference)
    return [item for item in ranked[:limit] if item[1].difference > 0]


def in_words(pairing: Pairing, first: Found, second: Found, titles: tuple[str, str], names: Sequence[Any]) -> str:
    """What differs, for a caption; at most three objects of each sort."""

    def objects(rows: list[int], found: Found) -> str:
        listed = [f"{names[int(found[row, 5])]} {found[row, 4]:.2f}" for row in rows[:3]]
        return ", ".join(listed) + (f" and {len(rows) - 3} more" if len(rows) > 3 else "")

    parts = [
        f"only {title}: {objects(rows, found)}"
        for title, rows, found in zip(titles, (pairing.only_first, pairing.only_second), (first, second), strict=True)
        if rows
    ]
    moved = max(pairing.pairs, key=lambda pair: abs(first[pair[0], 4] - second[pair[1], 4]), default=None)
    if moved is not None:
        before, after = first[moved[0], 4], second[moved[1], 4]
        if abs(before - after) >= 0.005:
            name = names[int(first[moved[0], 5])]
            parts.append(f"largest change of a score: {name} {before:.2f} to {after:.2f}")
    return "; ".join(parts) or "the same objects with the same scores"
