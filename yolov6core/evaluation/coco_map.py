"""COCO detection metrics (pycocotools) from arrays in memory."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yolov6core.evaluation.coco_match import Curves, Truth, match_image

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
    found = {image_id: _by_category(rows, image_id, ids) for image_id, rows in detections.items()}
    evaluation = _evaluate(ground_truth, found, known if image_ids is None else image_ids, sorted(categories))
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


def _by_category(found: NDArray, image_id: int, category_ids: Sequence[int]) -> dict[int, NDArray[np.float64]]:
    """Detections [N, 6] of an image by category id, each [n, 5] x, y, width, height, score."""
    found = np.asarray(found, dtype=np.float64).reshape(-1, 6)
    classes = found[:, 5].astype(int)
    wrong = classes[(classes < 0) | (classes >= len(category_ids))]
    if wrong.size:
        raise ValueError(f"image {image_id}: class {wrong[0]} is outside 0..{len(category_ids) - 1}")
    boxes = np.concatenate((found[:, :2], found[:, 2:4] - found[:, :2], found[:, 4:5]), axis=1)
    return {category_ids[label]: boxes[classes == label] for label in np.unique(classes)}


def _truth(ground_truth: Mapping) -> dict[tuple[int, int], Truth]:
    """Ground truth by image and category id."""
    rows: dict[tuple[int, int], list[Mapping]] = {}
    for row in ground_truth["annotations"]:
        rows.setdefault((row["image_id"], row["category_id"]), []).append(row)
    return {
        key: Truth(
            np.array([row["bbox"] for row in own], dtype=np.float64),
            np.array([row["area"] for row in own], dtype=np.float64),
            np.array([row.get("iscrowd", 0) for row in own], dtype=bool),
        )
        for key, own in rows.items()
    }


def _evaluate(
    ground_truth: Mapping, found: Mapping[int, Mapping[int, NDArray]], image_ids: Iterable[int], categories: list[int]
) -> Any:
    """A `COCOeval` that knows all its figures."""
    from pycocotools.cocoeval import COCOeval

    evaluation = COCOeval(iouType="bbox")
    evaluation.params.imgIds, evaluation.params.catIds = sorted({*image_ids}), categories
    truth, nothing = _truth(ground_truth), np.zeros((0, 5))
    curves = Curves(evaluation.params)
    for place, category in enumerate(categories):
        images = []
        for image_id in evaluation.params.imgIds:
            own, wanted = found.get(image_id, {}).get(category, nothing), truth.get((image_id, category))
            if len(own) or wanted is not None:
                images.append(match_image(own, wanted, evaluation.params))
        curves.fill(place, images)
    evaluation.eval = {"recall": curves.recall, "precision": curves.precision, "scores": curves.scores}
    with contextlib.redirect_stdout(io.StringIO()):  # it prints, and standard output belongs to the stages
        evaluation.summarize()
    return evaluation
