"""COCO's matching and its curves, as pycocotools computes them but for all IoU thresholds at once.

pycocotools keeps a dict for every detection and matches with three nested Python loops (thresholds, detections, ground
truths). The rule is the same here, and so is every figure; only detections that reach the lowest threshold with any box
are looked at one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Bool = NDArray[np.bool_]
Float = NDArray[np.float64]


class Truth(NamedTuple):
    """Ground truth of one category in one image: boxes x, y, width, height [G, 4], areas [G], crowds [G]."""

    boxes: Float
    areas: Float
    crowd: Bool


class Matches(NamedTuple):
    """Detections of one category in one image, by descending score, in each range of areas.

    `matched` and `ignored` [A, T, D]; `scores` [D]; `counting` [A] ground truths that are not ignored.
    """

    scores: Float
    matched: Bool
    ignored: Bool
    counting: NDArray[np.int64]


def match_image(found: Float, truth: Truth | None, params: Any) -> Matches:
    """Match the detections of one category in one image.

    Args:
        found: [D, 5] x, y, width, height, score, in any order; only the best `params.maxDets[-1]` count.
        truth: None: there is nothing of the category.
        params: of `COCOeval`. Ground truth outside `areaRng` (pixels squared) is ignored, as are unmatched detections
            outside it.
    """
    from pycocotools import mask

    found = found[np.argsort(-found[:, 4], kind="stable")[: params.maxDets[-1]]]
    low, high = np.array(params.areaRng, dtype=np.float64).T[:, :, None]  # [A, 1] each
    area = found[:, 2] * found[:, 3]
    outside = (area < low) | (area > high)
    matched, ignored = np.zeros((2, len(low), len(params.iouThrs), len(found)), dtype=bool)
    if truth is None:
        return Matches(found[:, 4], matched, ignored | outside[:, None], np.zeros(len(low), dtype=np.int64))
    unwanted = truth.crowd | (truth.areas < low) | (truth.areas > high)
    if len(found):
        overlaps = mask.iou(found[:, :4], truth.boxes, truth.crowd.tolist())
        for place in range(len(low)):
            matched[place], ignored[place] = match(overlaps, params.iouThrs, ignored=unwanted[place], crowd=truth.crowd)
    return Matches(found[:, 4], matched, ignored | (~matched & outside[:, None]), (~unwanted).sum(axis=1))


class Curves:
    """Recall [T, K, A, M], precision and scores over recall [T, R, K, A, M] of `COCOeval.eval`; -1 where unknown.

    Precision and scores are those for the largest of `params.maxDets` only: no figure is taken from the others.
    """

    def __init__(self, params: Any) -> None:
        self.params = params
        ranges, limits = len(params.areaRng), len(params.maxDets)
        self.recall = -np.ones((len(params.iouThrs), len(params.catIds), ranges, limits))
        self.precision = -np.ones((len(params.iouThrs), len(params.recThrs), len(params.catIds), ranges, limits))
        self.scores = self.precision.copy()

    def fill(self, category: int, images: Sequence[Matches]) -> None:
        """Set what is known of the category at that place in `params.catIds`, from all images with something of it."""
        if not images:
            return
        scores = np.concatenate([image.scores for image in images])
        order = np.argsort(-scores, kind="stable")
        ranks = np.concatenate([np.arange(len(image.scores)) for image in images])[order]
        matched = np.concatenate([image.matched for image in images], axis=2)[:, :, order]
        ignored = np.concatenate([image.ignored for image in images], axis=2)[:, :, order]
        for place, counting in enumerate(sum(image.counting for image in images)):
            if not counting:
                continue
            right, wrong = matched[place] & ~ignored[place], ~matched[place] & ~ignored[place]
            for limit, most in enumerate(self.params.maxDets):
                self.recall[:, category, place, limit] = right[:, ranks < most].sum(axis=1) / counting
            self._over_recall(
                (slice(None), slice(None), category, place, -1), right, wrong, int(counting), scores[order]
            )

    def _over_recall(self, place: tuple, right: Bool, wrong: Bool, counting: int, scores: Float) -> None:
        hits, misses = np.cumsum(right, axis=1, dtype=np.float64), np.cumsum(wrong, axis=1, dtype=np.float64)
        recall = hits / counting
        precision = hits / (misses + hits + np.spacing(1))
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]  # the best at this recall or more
        best, reached = np.zeros((2, len(hits), len(self.params.recThrs)))
        for row in range(len(hits)):
            found = np.searchsorted(recall[row], self.params.recThrs, side="left")
            found = found[found < len(scores)]
            best[row, : len(found)] = precision[row, found]
            reached[row, : len(found)] = scores[found]
        self.precision[place], self.scores[place] = best, reached


def match(overlaps: NDArray, thresholds: NDArray, *, ignored: Bool, crowd: Bool) -> tuple[Bool, Bool]:
    """Which detections match, and which of them an ignored ground truth.

    In descending score each detection takes the free ground truth it overlaps most, one that counts before an ignored
    one, if the overlap reaches the threshold; of equal overlaps the later one. Crowds are never used up.

    Args:
        overlaps: [D, G] IoU, detections by descending score.
        thresholds: [T].
        ignored, crowd: [G].

    Returns: matched [T, D], matched to an ignored ground truth [T, D].
    """
    limits = np.minimum(thresholds, 1 - 1e-10)[:, None]
    free = np.ones((len(limits), overlaps.shape[1]), dtype=bool)
    matched, match_ignored = np.zeros((2, len(limits), len(overlaps)), dtype=bool)
    rows = np.arange(len(limits))
    for detection in np.flatnonzero(overlaps.max(axis=1) >= limits.min()):
        possible = free & (overlaps[detection] >= limits)
        hit = possible.any(axis=1)
        if not hit.any():
            continue
        counting = possible & ~ignored
        possible = np.where(counting.any(axis=1, keepdims=True), counting, possible)
        candidates = np.where(possible, overlaps[detection], -1.0)
        # reversed, because argmax gives the first of equal ones
        choice = candidates.shape[1] - 1 - candidates[:, ::-1].argmax(axis=1)
        matched[:, detection] = hit
        match_ignored[:, detection] = hit & ignored[choice]
        used = hit & ~crowd[choice]
        free[rows[used], choice[used]] = False
    return matched, match_ignored
