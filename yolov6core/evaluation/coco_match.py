"""The matching step of pycocotools for all IoU thresholds at once.

pycocotools matches with three nested Python loops (thresholds, detections, ground truths), which takes most of its
time. The rule is the same here; only detections that reach the lowest threshold with any box are looked at one by one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Bool = NDArray[np.bool_]


def evaluate_image(
    evaluation: Any, image_id: int, category_id: int, area_range: list[float], max_detections: int
) -> dict[str, Any] | None:
    """Drop-in for `COCOeval.evaluateImg`: matches of one image, category and range of areas; None where nothing is.

    Args:
        evaluation: a `COCOeval` whose overlaps are computed.
        area_range: ground truth outside it (pixels squared) is ignored, as are unmatched detections outside it.
        max_detections: only so many of the best detections count.
    """
    key = (image_id, category_id)
    truth, found = evaluation._gts.get(key, []), evaluation._dts.get(key, [])
    if not truth and not found:
        return None
    low, high = area_range
    ignored = np.array([bool(t["ignore"]) or not low <= t["area"] <= high for t in truth], dtype=bool)
    crowd = np.array([bool(t["iscrowd"]) for t in truth], dtype=bool)
    all_scores = np.array([d["score"] for d in found], dtype=np.float64)
    order = np.argsort(-all_scores, kind="stable")[:max_detections]
    outside = np.array([not low <= found[i]["area"] <= high for i in order], dtype=bool)
    matched, match_ignored = np.zeros((2, len(evaluation.params.iouThrs), len(order)), dtype=bool)
    if truth and len(order):
        # rows of the overlaps are ordered by score already
        overlaps = np.asarray(evaluation.ious[key])[: len(order)]
        matched, match_ignored = match(overlaps, evaluation.params.iouThrs, ignored=ignored, crowd=crowd)
    return {
        "image_id": image_id,
        "category_id": category_id,
        "aRng": area_range,
        "maxDet": max_detections,
        "dtIds": [found[i]["id"] for i in order],
        "dtMatches": matched,
        "dtScores": all_scores[order],
        "gtIgnore": np.sort(ignored),
        "dtIgnore": match_ignored | (~matched & outside),
    }


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
