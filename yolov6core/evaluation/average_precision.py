"""Average precision: one falling envelope of precision, with two ways to sample it at 101 recalls."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from yolov6core.evaluation.matching import ClassMatches

Float = NDArray[np.float64]

RECALLS: Float = np.linspace(0, 1, 101)


def envelope(precision: Float) -> Float:
    """The highest precision at each detection or a later one [..., N], so that it never rises with recall."""
    return np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1]


def precision_at_recalls(recall: Float, precision: Float) -> tuple[Float, NDArray[np.int64]]:
    """COCO's sampling: the envelope at the first detection that reaches each of `RECALLS`, 0 where none does.

    Args:
        recall, precision: [T, N] after each detection, by descending score.

    Returns: precision [T, 101] and the position of that detection [T, 101], N where none reaches the recall.
    """
    positions = np.array([np.searchsorted(row, RECALLS, side="left") for row in recall]).reshape(-1, len(RECALLS))
    padded = np.concatenate((envelope(precision), np.zeros((len(precision), 1))), axis=1)
    return np.take_along_axis(padded, positions, axis=1), positions


def trapezoid_area(recall: Float, precision: Float) -> float:
    """The official YOLOv6 sampling: the envelope interpolated linearly at `RECALLS`, integrated by trapezoids.

    The curve starts at recall 0 with precision 1. Past the highest recall it falls to 0 within 0.01.

    Args:
        recall, precision: [N] after each detection, by descending score; N is at least 1.
    """
    recall = np.concatenate(([0.0], recall, [recall[-1] + 0.01]))
    sampled = np.interp(RECALLS, recall, envelope(np.concatenate(([1.0], precision, [0.0]))))
    return float(((sampled[1:] + sampled[:-1]) / 2 * np.diff(RECALLS)).sum())


def mean_average_precision(matches: Iterable[ClassMatches], kept: NDArray[np.bool_]) -> float:
    """COCO's AP of some images, over their whole range of areas: mean over thresholds, then over classes.

    Args:
        matches: of each class; the first range of areas counts.
        kept: [I] the images that count.

    Returns: 0..1; -1 where the images have no ground truth.
    """
    values = [_class_average(entry, kept) for entry in matches if entry.truths[0, kept].sum()]
    return float(np.mean(values)) if values else -1.0


def _class_average(entry: ClassMatches, kept: NDArray[np.bool_]) -> float:
    inside = np.flatnonzero(kept[entry.image])
    inside = inside[np.argsort(-entry.scores[inside], kind="stable")]
    counting = ~entry.ignored[0][:, inside]
    right = np.cumsum(entry.matched[0][:, inside] & counting, axis=1)
    precision = right / np.maximum(np.cumsum(counting, axis=1), 1)
    values, _ = precision_at_recalls(right / entry.truths[0, kept].sum(), precision)
    return float(values.mean())
