"""Greedy matching of detections to ground truth by COCO's rule: the one matcher of all metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pycocotools import mask

Bool = NDArray[np.bool_]
Float = NDArray[np.float64]
Index = NDArray[np.int64]

IOU_THRESHOLDS: Float = np.linspace(0.5, 0.95, 10)
MAX_DETECTIONS = 100
EVERY_AREA = ((-np.inf, np.inf),)

_crowd_iou: Callable[..., Any] = mask.iou
"""Boxes [D, 4] and [G, 4] x, y, width, height, crowds: IoU [D, G]. Its own annotation lists integer boxes only."""


class Truth(NamedTuple):
    """Ground truth of one category in one image: boxes x, y, width, height [G, 4], areas [G], crowds [G]."""

    boxes: Float
    areas: Float
    crowd: Bool


@dataclass(frozen=True)
class ClassMatches:
    """Matches of one category in all images. Letters: N detections, T thresholds, R ranges of areas, I images.

    Detections are ordered by image, then by descending score.

    Attributes:
        image: [N] position of the image.
        rank: [N] position among the detections of the image.
        scores: [N].
        matched: [R, T, N] matched to a ground truth.
        ignored: [R, T, N] counts neither as right nor as wrong.
        truths: [R, I] ground truths that count.
    """

    image: Index
    rank: Index
    scores: Float
    matched: Bool
    ignored: Bool
    truths: Index


def match(
    overlaps: NDArray[Any], thresholds: ArrayLike, *, ignored: Bool | None = None, crowd: Bool | None = None
) -> Index:
    """The ground truth that each detection takes at each threshold: [T, D] positions, -1 for none.

    Each detection, by descending score, takes the free ground truth of the highest overlap that reaches the threshold.
    Of equal overlaps the last ground truth counts, as in pycocotools. A ground truth that counts precedes an ignored
    one. A crowd stays free.

    Args:
        overlaps: [D, G] IoU, detections by descending score. A negative IoU forbids a pair, for example of two classes.
        thresholds: [T] above 0; 1 allows for rounding, as in pycocotools.
        ignored, crowd: [G]; None: no ground truth is.
    """
    limits = np.minimum(np.asarray(thresholds, dtype=np.float64), 1 - 1e-10)
    taken = np.full((len(limits), len(overlaps)), -1)
    detections, truths = np.nonzero(overlaps >= limits.min())
    if not len(detections):
        return taken
    values = overlaps[detections, truths]
    if len(detections) > 1:
        keys = (-truths, -values) if ignored is None else (-truths, -values, ignored[truths])
        order = np.lexsort((*keys, detections))
        detections, truths, values = detections[order], truths[order], values[order]
    pairs = list(zip(detections.tolist(), truths.tolist(), values.tolist(), strict=True))
    endless = set() if crowd is None else set(np.flatnonzero(crowd).tolist())
    for row, limit in zip(taken, limits.tolist(), strict=True):
        used: set[int] = set()
        served = -1
        for detection, truth, value in pairs:
            if value >= limit and detection != served and truth not in used:
                row[detection] = truth
                served = detection
                if truth not in endless:
                    used.add(truth)
    return taken


def match_classes(
    ground_truth: Mapping[str, Any],
    detections: Mapping[int, NDArray[Any]],
    *,
    image_ids: Sequence[int] | None = None,
    category_ids: Sequence[int] | None = None,
    thresholds: Sequence[float] | Float = IOU_THRESHOLDS,
    area_ranges: Sequence[Sequence[float]] = EVERY_AREA,
    limit: int = MAX_DETECTIONS,
) -> Iterator[ClassMatches]:
    """Matches of each category, by ascending category id.

    Args:
        ground_truth: COCO dict with `images`, `annotations`, `categories`.
        detections: image id to [N, 6] x1, y1, x2, y2, score, class, in source pixels and any order.
        image_ids: the images to measure, in the order of the positions; None: all by ascending id.
        category_ids: category id of each class; None: the ascending ids of the ground truth.
        thresholds: [T] IoU.
        area_ranges: [R, 2] lowest and highest area in pixels squared. Ground truth outside is ignored. Unmatched
            detections outside are ignored.
        limit: highest number of detections of a category in an image; the weakest are dropped.

    Raises:
        ValueError: a detection has an unknown class.
    """
    categories = sorted(category["id"] for category in ground_truth["categories"])
    ids = sorted(image["id"] for image in ground_truth["images"]) if image_ids is None else image_ids
    own = categories if category_ids is None else category_ids
    found = {image_id: _by_category(detections[image_id], image_id, own) for image_id in ids if image_id in detections}
    truths = _truths(ground_truth)
    limits, low_high = np.asarray(thresholds, dtype=np.float64), np.array(area_ranges, dtype=np.float64)
    nothing = np.zeros((0, 5))
    for category in categories:
        images: dict[int, _ImageMatches] = {}
        for position, image_id in enumerate(ids):
            rows, truth = found.get(image_id, {}).get(category, nothing), truths.get((image_id, category))
            if len(rows) or truth is not None:
                images[position] = _match_image(rows, truth, limits, low_high, limit)
        yield _joined(images, len(ids), (len(low_high), len(limits)))


class _ImageMatches(NamedTuple):
    """As `ClassMatches`, of one image: scores [D], matched and ignored [R, T, D], truths [R]."""

    scores: Float
    matched: Bool
    ignored: Bool
    truths: Index


def _match_image(found: Float, truth: Truth | None, thresholds: Float, ranges: Float, limit: int) -> _ImageMatches:
    """Match detections [D, 5] x, y, width, height, score of one category in one image."""
    found = found[np.argsort(-found[:, 4], kind="stable")[:limit]]
    low, high = ranges.T[:, :, None]  # [R, 1] each
    area = found[:, 2] * found[:, 3]
    outside = (area < low) | (area > high)
    matched, ignored = np.zeros((2, len(ranges), len(thresholds), len(found)), dtype=bool)
    if truth is None:
        return _ImageMatches(found[:, 4], matched, ignored | outside[:, None], np.zeros(len(ranges), dtype=np.int64))
    unwanted = truth.crowd | (truth.areas < low) | (truth.areas > high)
    if len(found):
        overlaps: Float = _crowd_iou(found[:, :4], truth.boxes, truth.crowd.tolist())
        for place, unwanted_here in enumerate(unwanted):
            taken = match(overlaps, thresholds, ignored=unwanted_here, crowd=truth.crowd)
            matched[place] = taken >= 0
            ignored[place] = matched[place] & unwanted_here[taken]
    return _ImageMatches(found[:, 4], matched, ignored | (~matched & outside[:, None]), (~unwanted).sum(axis=1))


def _joined(images: Mapping[int, _ImageMatches], count: int, shape: tuple[int, int]) -> ClassMatches:
    """Matches of all images together, from those by position; `shape` is [R, T]."""
    lengths = [len(image.scores) for image in images.values()]
    truths = np.zeros((shape[0], count), dtype=np.int64)
    for position, image in images.items():
        truths[:, position] = image.truths
    none = np.zeros((*shape, 0), dtype=bool)
    return ClassMatches(
        image=np.repeat(np.array(list(images), dtype=np.int64), lengths),
        rank=np.concatenate([np.zeros(0, dtype=np.int64), *(np.arange(length) for length in lengths)]),
        scores=np.concatenate([np.zeros(0), *(image.scores for image in images.values())]),
        matched=np.concatenate([none, *(image.matched for image in images.values())], axis=2),
        ignored=np.concatenate([none, *(image.ignored for image in images.values())], axis=2),
        truths=truths,
    )


def _by_category(found: NDArray[Any], image_id: int, category_ids: Sequence[int]) -> dict[int, Float]:
    """Detections [N, 6] of an image by category id, each [n, 5] x, y, width, height, score."""
    found = np.asarray(found, dtype=np.float64).reshape(-1, 6)
    classes = found[:, 5].astype(int)
    wrong = classes[(classes < 0) | (classes >= len(category_ids))]
    if wrong.size:
        raise ValueError(f"image {image_id}: class {wrong[0]} is outside 0..{len(category_ids) - 1}")
    boxes = np.concatenate((found[:, :2], found[:, 2:4] - found[:, :2], found[:, 4:5]), axis=1)
    return {category_ids[label]: boxes[classes == label] for label in np.unique(classes)}


def _truths(ground_truth: Mapping[str, Any]) -> dict[tuple[int, int], Truth]:
    """Ground truth by image and category id."""
    rows: dict[tuple[int, int], list[Mapping[str, Any]]] = {}
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
