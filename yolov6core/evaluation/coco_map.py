"""COCO detection metrics (pycocotools) from arrays in memory."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yolov6core.evaluation.coco_match import evaluate_image

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
    ground_truth: Mapping,
    detections: Mapping[int, NDArray],
    *,
    category_ids: Sequence[int] | None = None,
    image_ids: Sequence[int] | None = None,
) -> CocoResult:
    """The 12 COCO figures and AP per class.

    Args:
        ground_truth: COCO dict with `images`, `annotations`, `categories`.
        detections: image id to [N, 6] x1, y1, x2, y2, score, class, in source pixels.
        category_ids: category id of each class index; None: the ascending ids of the ground truth.
        image_ids: measure only these images; None: all of the ground truth.

    Raises:
        ValueError: detections of an unknown image or class.
    """
    categories = {category["id"]: category["name"] for category in ground_truth["categories"]}
    ids = list(category_ids) if category_ids is not None else sorted(categories)
    known = {image["id"] for image in ground_truth["images"]}
    if not known.issuperset(detections):
        raise ValueError(f"detections of images that the ground truth lacks: {sorted(set(detections) - known)[:5]}")
    evaluation = _evaluate(ground_truth, _rows(detections, ids), image_ids)
    stats = {name: float(value) for name, value in zip(STAT_NAMES, evaluation.stats, strict=True)}
    # [T thresholds, R recalls, K categories (ascending id), areas, detection limits]; all areas, up to 100 detections
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    names = [categories[category] for category in evaluation.params.catIds]
    per_class = {
        name: {"map50_95": _mean(precision[:, :, k]), "map50": _mean(precision[0, :, k])}
        for k, name in enumerate(names)
    }
    confidence = evaluation.eval["scores"][0, :, :, 0, -1]
    return CocoResult(stats, per_class, precision[0], confidence, np.asarray(evaluation.params.recThrs))


def _mean(precision: NDArray[np.float64]) -> float | None:
    valid = precision[precision > -1]
    return float(valid.mean()) if valid.size else None


def _rows(detections: Mapping[int, NDArray], category_ids: Sequence[int]) -> list[dict]:
    rows: list[dict] = []
    for image_id, found in detections.items():
        found = np.asarray(found, dtype=np.float64).reshape(-1, 6)
        classes = found[:, 5].astype(int)
        wrong = classes[(classes < 0) | (classes >= len(category_ids))]
        if wrong.size:
            raise ValueError(f"image {image_id}: class {wrong[0]} is outside 0..{len(category_ids) - 1}")
        extents = found[:, 2:4] - found[:, :2]
        boxes = np.concatenate((found[:, :2], extents), axis=1).tolist()
        for box, area, score, label in zip(
            boxes, extents.prod(axis=1).tolist(), found[:, 4].tolist(), classes.tolist(), strict=True
        ):
            rows.append(
                {
                    "id": len(rows) + 1,
                    "image_id": image_id,
                    "category_id": category_ids[label],
                    "bbox": box,
                    "area": area,
                    "score": score,
                    "iscrowd": 0,
                }
            )
    return rows


def _evaluate(ground_truth: Mapping, rows: list[dict], image_ids: Sequence[int] | None) -> Any:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    # pycocotools reports on standard output, which belongs to the stages
    with contextlib.redirect_stdout(io.StringIO()):
        truth, found = COCO(), COCO()
        truth.dataset = {**ground_truth, "annotations": [dict(row) for row in ground_truth["annotations"]]}
        found.dataset = {
            "images": ground_truth["images"],
            "categories": ground_truth["categories"],
            "annotations": rows,
        }
        truth.createIndex()
        found.createIndex()
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.evaluateImg = partial(evaluate_image, evaluation)
        if image_ids is not None:
            evaluation.params.imgIds = sorted(image_ids)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation
