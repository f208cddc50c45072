"""Greedy non-maximum suppression on the CPU, exact and deterministic.

Only pairs of one class are compared. No offset moves classes apart, so coordinates keep their float32 precision. There
is no time limit, so a result never depends on the machine. The same few array operations handle all classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float32]
Indices = NDArray[np.int64]

_FIRST_LOOK = 1024
"""Number of the best candidates that are looked at first; usually they suffice."""
_PAIRS = 1 << 15
"""Number of pairs of boxes compared at once; their arrays fit into the cache."""
_FEW = 64
"""So many candidates are compared in one table of all pairs: fewer array operations, each of which takes its time."""
_MANY = 1 << 14
"""Fewer values are looked through one by one."""
_LATER = ~np.tri(_FEW, dtype=bool)
"""[i, j]: j comes after i."""


def nms(
    boxes: ArrayLike | torch.Tensor,
    scores: ArrayLike | torch.Tensor,
    *,
    score_threshold: float,
    iou_threshold: float,
    max_detections: int,
    multi_label: bool = True,
    agnostic: bool = False,
) -> Float:
    """Detections of one image by greedy suppression.

    Args:
        boxes: [A, 4] xyxy, in any unit.
        scores: [A, C] in 0..1.
        score_threshold: only scores above it count; at least 0.
        iou_threshold: a box is dropped if its IoU with a kept box of higher score is above it.
        max_detections: number of detections kept at most.
        multi_label: every class above the threshold makes a detection of its own; otherwise only the best class.
        agnostic: boxes of different classes suppress each other, too.

    Returns: float32 [N, 6] rows x1, y1, x2, y2, score, class, by descending score (ties in the order of anchors).

    Raises:
        ValueError: shapes do not fit together, or a negative threshold.
    """
    found = candidates(boxes, scores, score_threshold=score_threshold, multi_label=multi_label)
    return suppressed(found, iou_threshold=iou_threshold, max_detections=max_detections, agnostic=agnostic)


@dataclass(frozen=True)
class Candidates:
    """What one image may hold, by descending score (ties in the order of anchors): boxes [K, 4], scores [K], classes
    int64 [K]. All are copies."""

    boxes: Float
    scores: Float
    classes: Indices


def candidates(
    boxes: ArrayLike | torch.Tensor,
    scores: ArrayLike | torch.Tensor,
    *,
    score_threshold: float,
    multi_label: bool = True,
) -> Candidates:
    """The first half of `nms`: everything above the threshold. Args, raises: see there."""
    boxes, scores = as_float32(boxes), as_float32(scores)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.ndim != 2 or len(scores) != len(boxes):
        raise ValueError(f"nms takes boxes [A, 4] and scores [A, C] of one image, got {boxes.shape} and {scores.shape}")
    if score_threshold < 0:
        raise ValueError(f"score_threshold is {score_threshold}; scores lie in 0..1, so give at least 0")
    places, values = _by_score(*_above(scores, np.float32(score_threshold), multi_label))
    rows = places // max(scores.shape[1], 1)
    return Candidates(boxes[rows], values, places - rows * scores.shape[1])


def suppressed(found: Candidates, *, iou_threshold: float, max_detections: int, agnostic: bool = False) -> Float:
    """The second half of `nms`: what stays. Args, returns: see there."""
    classes = np.zeros_like(found.classes) if agnostic else found.classes
    threshold = np.float32(iou_threshold)
    if len(classes) <= _FEW:
        kept = _suppress_few(found.boxes, classes, threshold)[:max_detections]
    else:
        kept = _suppress(_Boxes.of(found.boxes, classes), threshold, max_detections)
    rows = np.empty((len(kept), 6), np.float32)
    rows[:, :4], rows[:, 4], rows[:, 5] = found.boxes[kept], found.scores[kept], found.classes[kept]
    return rows


def as_float32(values: ArrayLike | torch.Tensor) -> Float:
    """A tensor on any device, or anything numpy takes, as a float32 array."""
    if isinstance(values, torch.Tensor):
        values = values.detach().float().cpu().numpy()
    return np.asarray(values, dtype=np.float32)


def _above(scores: Float, threshold: np.float32, multi_label: bool) -> tuple[Indices, Float]:
    """Places in the flattened scores [K], ascending, and scores [K] of everything above the threshold."""
    flat = scores.ravel()
    places = _true_places(flat > threshold)
    if multi_label or scores.shape[1] < 2:
        return places, flat.take(places)
    # Few rows are above the threshold, so the best class is looked for in them alone.
    rows = places // scores.shape[1]
    if len(rows) > 1:
        rows = np.concatenate((rows[:1], rows[1:][rows[1:] != rows[:-1]]))
    classes = scores.take(rows, axis=0).argmax(axis=1)
    places = rows * scores.shape[1] + classes
    values = flat.take(places)
    above = values > threshold  # False for NaN
    return (places, values) if above.all() else (places[above], values[above])


def _true_places(mask: NDArray[np.bool_]) -> Indices:
    """As np.flatnonzero, faster where few of many are true: eight values are read as one integer."""
    if len(mask) < _MANY:
        return np.flatnonzero(mask)
    whole = len(mask) // 8 * 8
    words = mask[:whole].view(np.uint64)
    hit = np.flatnonzero(words)
    inside = np.flatnonzero(words.take(hit).view(np.bool_))
    return np.concatenate((hit.take(inside >> 3) * 8 + (inside & 7), whole + np.flatnonzero(mask[whole:])))


def _by_score(places: Indices, values: Float) -> tuple[Indices, Float]:
    """Both by descending score, equal scores by ascending place.

    The bits of positive floats sort like the floats, so score and place make one integer that sorts without ties.
    """
    if len(places) <= _FEW:
        order = np.argsort(-values, kind="stable")
        return places.take(order), values.take(order)
    bits = values.view(np.uint32)
    keys = (~bits).astype(np.uint64) << np.uint64(32) | places.astype(np.uint64)
    keys.sort()
    sorted_bits = ~(keys >> np.uint64(32)).astype(np.uint32)
    return (keys & np.uint64(0xFFFFFFFF)).astype(np.int64), sorted_bits.view(np.float32)


@dataclass(frozen=True)
class _Boxes:
    """Candidates by descending score: corners as four arrays [K], areas [K], and classes [K] to compete in."""

    corners: tuple[Float, Float, Float, Float]
    areas: Float
    classes: Indices

    @classmethod
    def of(cls, boxes: Float, classes: Indices) -> _Boxes:
        left, top, right, bottom = np.ascontiguousarray(boxes.T)
        areas = ((right - left) * (bottom - top)).astype(np.float32, copy=False)
        return cls((left, top, right, bottom), areas, classes)

    def overlap(self, first: Indices, second: Indices, threshold: np.float32) -> NDArray[np.bool_]:
        """Whether the IoU of each pair [P] is above the threshold; float32, 0/0 counts as no overlap."""
        found = np.empty(len(first), dtype=bool)
        for start in range(0, len(first), _PAIRS):
            part = slice(start, start + _PAIRS)
            a, b = first[part], second[part]
            common = self._side(0, a, b)
            common *= self._side(1, a, b)
            union = self.areas.take(a)
            union += self.areas.take(b)
            union -= common
            with np.errstate(divide="ignore", invalid="ignore"):
                np.greater(np.divide(common, union, out=common), threshold, out=found[part])
        return found

    def _side(self, axis: int, a: Indices, b: Indices) -> Float:
        low, high = self.corners[axis], self.corners[axis + 2]
        side = np.minimum(high.take(a), high.take(b))
        side -= np.maximum(low.take(a), low.take(b))
        return np.maximum(side, 0, out=side)


def _suppress_few(boxes: Float, classes: Indices, threshold: np.float32) -> Indices:
    """As `_suppress` without a limit, for up to `_FEW` candidates, by the rounds of `_greedy`."""
    left, top, right, bottom = np.ascontiguousarray(boxes.T)
    common = np.minimum(right[:, None], right)
    common -= np.maximum(left[:, None], left)
    np.maximum(common, 0, out=common)
    height = np.minimum(bottom[:, None], bottom)
    height -= np.maximum(top[:, None], top)
    common *= np.maximum(height, 0, out=height)
    areas = (right - left) * (bottom - top)
    union = areas[:, None] + areas
    union -= common
    with np.errstate(divide="ignore", invalid="ignore"):
        beats = np.divide(common, union, out=common) > threshold
    beats &= classes[:, None] == classes
    beats &= _LATER[: len(boxes), : len(boxes)]
    stays = ~beats.any(axis=0)  # as if all boxes stayed; each round asks those alone that do
    while True:
        updated = ~beats[stays].any(axis=0)
        if (updated == stays).all():
            return np.flatnonzero(stays)
        stays = updated


def _suppress(boxes: _Boxes, threshold: np.float32, limit: int) -> Indices:
    """Ascending places of the best `limit` candidates that stay.

    Candidates are taken in parts, the best first. The boxes kept so far suppress candidates of a part; then the rest of
    the part is suppressed among itself. The number of pairs limits the length of a part, so one crowded class costs no
    more memory than eighty.
    """
    kept = np.zeros(0, dtype=np.int64)
    left, size = np.arange(len(boxes.classes)), _FIRST_LOOK
    while len(left) and len(kept) < limit:
        part = left[:size]
        if len(kept):
            rivals = np.bincount(boxes.classes[kept], minlength=boxes.classes.max() + 1)
            part = part[: _length(boxes.classes[part], rivals)]
        alive = part[~_beaten(boxes, kept, part, threshold)]
        chosen = alive[: _length(boxes.classes[alive], None)]
        kept = np.concatenate((kept, chosen[_greedy(boxes, chosen, threshold)]))
        left = np.concatenate((alive[len(chosen) :], left[len(part) :]))
        if len(chosen) == len(alive):
            size = 8 * _FIRST_LOOK
    return kept[:limit]


def _length(classes: Indices, rivals: Indices | None) -> int:
    """Number of first candidates that make at most `_PAIRS` pairs, with the rivals [C] in each class or each other.

    The number is halved until the pairs fit, or until it is at most 128.
    """
    length = len(classes)
    while length > 128:
        counts = np.bincount(classes[:length], minlength=0 if rivals is None else len(rivals))
        if (counts @ counts // 2 if rivals is None else counts @ rivals) <= _PAIRS:
            break
        length //= 2
    return length


def _beaten(boxes: _Boxes, kept: Indices, part: Indices, threshold: np.float32) -> NDArray[np.bool_]:
    """Whether each box of `part` overlaps a kept box of its class: [P]."""
    beaten = np.zeros(len(part), dtype=bool)
    if not len(kept):
        return beaten
    classes = boxes.classes[kept]
    counts = np.bincount(classes, minlength=boxes.classes.max() + 1)
    firsts = np.cumsum(counts) - counts
    own = boxes.classes[part]
    candidate, rival = _ranges(firsts[own], counts[own])
    rival = kept[np.argsort(classes, kind="stable")].take(rival)
    beaten[candidate[boxes.overlap(part.take(candidate), rival, threshold)]] = True
    return beaten


def _greedy(boxes: _Boxes, chosen: Indices, threshold: np.float32) -> NDArray[np.bool_]:
    """Whether each box of `chosen`, by descending score, stays: [P]. A box that stays removes later boxes it overlaps.

    All boxes stay at first. Each round applies the rule `a box stays unless an earlier box that stays overlaps it` to
    the last result. After n rounds the first n boxes are final; usually a few rounds suffice.
    """
    classes = boxes.classes[chosen].astype(np.uint16)  # sorts in linear time
    order = np.argsort(classes, kind="stable")
    ends = np.cumsum(np.bincount(classes))[classes[order]]
    nexts = np.arange(1, len(chosen) + 1)
    earlier, later = _ranges(nexts, ends - nexts)
    ordered = chosen[order]
    overlap = boxes.overlap(ordered.take(earlier), ordered.take(later), threshold)
    earlier, later = earlier[overlap], later[overlap]
    stays = np.ones(len(chosen), dtype=bool)
    while True:
        updated = np.ones(len(chosen), dtype=bool)
        updated[later[stays[earlier]]] = False
        if np.array_equal(updated, stays):
            break
        stays = updated
    result = np.zeros(len(chosen), dtype=bool)
    result[order[stays]] = True
    return result


def _ranges(starts: Indices, lengths: Indices) -> tuple[Indices, Indices]:
    """Pairs (i, starts[i] + 0), (i, starts[i] + 1), .. as two arrays; `lengths[i]` pairs for each i."""
    owner = np.repeat(np.arange(len(lengths)), lengths)
    offset = np.arange(len(owner)) + np.repeat(starts - np.cumsum(lengths) + lengths, lengths)
    return owner, offset
