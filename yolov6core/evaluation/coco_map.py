"""COCO detection metrics (pycocotools) from arrays in memory."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.cocoeval import COCOeval

from yolov6core.evaluation.average_precision import precision_at_recalls
from yolov6core.evaluation.matching import ClassMatches, match_classes

STAT_NAMES = (
    "map50_95",
    "map50",
    "map75",
    "map_small",
    "map_medium",
    "map_large",
    "ar1",
    "ar10",
    "ar100",
    "ar_small",
    "ar_medium",
    "ar_large",
)


@dataclass(frozen=True)
class CocoResult:
    """COCO figures in 0..1.

    Attributes:
        stats: the 12 figures by name; -1 where no ground truth exists to measure them on (COCO's convention).
        per_class: class name to `map50_95` and `map50`; None for classes without ground truth.
        precision: [R, C] precision at IoU 0.5 over the recall points; -1 for classes without ground truth.
        confidence: [R, C] the score at which that precision is reached.
        recall: [R] recall points 0, 0.01 .. 1.
    """

    stats: dict[str, float]
    per_class: dict[str, dict[str, float | None]]
    precision: NDArray[np.float64]
    confidence: NDArray[np.float64]
    recall: NDArray[np.float64]


def coco_metrics(
    ground_truth: Mapping[str, Any],
    detections: Mapping[int, NDArray[Any]],
    *,
    category_ids: Sequence[int] | None = None,
    image_ids: Sequence[int] | None = None,
) -> CocoResult:
    """The 12 COCO figures and AP per class, equal to those of pycocotools to the last bit.

    Args:
        ground_truth: COCO dict with `images`, `annotations`, `categories`.
        detections: image id to [N, 6] x1, y1, x2, y2, score, class, in source pixels.
        category_ids: category id of each class index; None: the ascending ids of the ground truth.
        image_ids: measure only these images; None: all of the ground truth.

    Raises:
        ValueError: detections of an unknown image or class.
    """
    categories = {category["id"]: category["name"] for category in ground_truth["categories"]}
    known = {image["id"] for image in ground_truth["images"]}
    if not known.issuperset(detections):
        raise ValueError(f"detections of images that the ground truth lacks: {sorted(set(detections) - known)[:5]}")
    evaluation: Any = COCOeval(iouType="bbox")  # its annotation of `eval` leaves out most keys
    params = evaluation.params
    params.imgIds, params.catIds = sorted(known if image_ids is None else {*image_ids}), sorted(categories)
    matches = match_classes(
        ground_truth,
        detections,
        image_ids=params.imgIds,
        category_ids=category_ids,
        thresholds=params.iouThrs,
        area_ranges=params.areaRng,
        limit=params.maxDets[-1],
    )
    curves = _Curves(params)
    for place, entry in enumerate(matches):
        curves.fill(place, entry)
    return _result(evaluation, curves, [categories[category] for category in params.catIds])


def _result(evaluation: Any, curves: _Curves, names: Sequence[str]) -> CocoResult:
    evaluation.eval = {"recall": curves.recall, "precision": curves.precision, "scores": curves.scores}
    with contextlib.redirect_stdout(io.StringIO()):  # it prints, and standard output belongs to the stages
        evaluation.summarize()
    stats = {name: float(value) for name, value in zip(STAT_NAMES, evaluation.stats, strict=True)}
    # [T thresholds, P recalls, K categories (ascending id), areas, detection limits]; all areas, up to 100 detections
    precision, scores = curves.precision[:, :, :, 0, -1], curves.scores[0, :, :, 0, -1]
    per_class = {
        name: {"map50_95": _mean(precision[:, :, k]), "map50": _mean(precision[0, :, k])}
        for k, name in enumerate(names)
    }
    return CocoResult(stats, per_class, precision[0], scores, np.asarray(evaluation.params.recThrs))


def _mean(precision: NDArray[np.float64]) -> float | None:
    valid = precision[precision > -1]
    return float(valid.mean()) if valid.size else None


class _Curves:
    """Recall [T, K, R, M], precision and scores over recall [T, P, K, R, M] of `COCOeval.eval`; -1 where unknown.

    Letters: T thresholds, P recall points, K categories, R ranges of areas, M limits of detections. Precision and
    scores are filled for the highest limit only: no figure is taken from the others.
    """

    def __init__(self, params: Any) -> None:
        self.limits: Sequence[int] = params.maxDets
        ranges = len(params.areaRng)
        self.recall = -np.ones((len(params.iouThrs), len(params.catIds), ranges, len(self.limits)))
        self.precision = -np.ones(
            (len(params.iouThrs), len(params.recThrs), len(params.catIds), ranges, len(self.limits))
        )
        self.scores = self.precision.copy()

    def fill(self, category: int, matches: ClassMatches) -> None:
        """Set the values of the category at that position in `params.catIds`."""
        order = np.argsort(-matches.scores, kind="stable")
        ranks, scores = matches.rank[order], np.append(matches.scores[order], 0.0)
        for place, truths in enumerate(matches.truths.sum(axis=1).tolist()):
            if not truths:
                continue
            matched, counting = matches.matched[place][:, order], ~matches.ignored[place][:, order]
            right = matched & counting
            for limit, most in enumerate(self.limits):
                self.recall[:, category, place, limit] = right[:, ranks < most].sum(axis=1) / truths
            hits, seen = np.cumsum(right, axis=1), np.cumsum(counting, axis=1)
            # pycocotools adds the spacing, which moves the last bit where one detection is seen
            best, reached = precision_at_recalls(hits / truths, hits / (seen + np.spacing(1)))
            self.precision[:, :, category, place, -1] = best
            self.scores[:, :, category, place, -1] = scores[reached]
