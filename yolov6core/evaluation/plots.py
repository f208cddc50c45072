"""Rows for curve plots, and pictures of detections and of training batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from yolov6core.evaluation.coco_map import CocoResult
from yolov6core.evaluation.curves import CONFIDENCES, ClassCurves
from yolov6core.evaluation.tags import Sizes, write_tags, write_title

Image = NDArray[np.uint8]
Row = dict[str, float | str]

_COLOURS = ((60, 180, 75), (75, 25, 230), (200, 130, 0), (25, 225, 255), (180, 30, 145), (240, 240, 70), (48, 130, 245))
_FAR = 10**6
"""Corners further away than that lie outside of every picture."""
_WHITE = (255, 255, 255)
JPEG_SIDE = 65500
"""Longest side of a JPEG file, in pixels."""
_HEADER = 24
"""Height of the title over a panel, in pixels."""


def precision_recall_rows(coco: CocoResult, names: Sequence[str]) -> list[Row]:
    """Rows `class`, `recall`, `precision` at IoU 0.5, for every class with ground truth."""
    rows: list[Row] = []
    for k, name in enumerate(names):
        if (coco.precision[:, k] < 0).all():
            continue
        for recall, precision in zip(coco.recall, coco.precision[:, k], strict=True):
            rows.append({"class": name, "recall": round(float(recall), 2), "precision": round(float(precision), 5)})
    return rows


def confidence_rows(curves: ClassCurves, names: Sequence[str], *, step: int = 10) -> list[Row]:
    """Rows `class`, `confidence`, `precision`, `recall`, `f1` at IoU 0.5; every `step`-th of 1000 thresholds."""
    rows: list[Row] = []
    for k, label in enumerate(curves.classes):
        for i in range(0, len(CONFIDENCES), step):
            values = {"precision": curves.precision, "recall": curves.recall, "f1": curves.f1}
            row: Row = {"class": names[int(label)], "confidence": round(float(CONFIDENCES[i]), 4)}
            rows.append(row | {key: round(float(value[k, i]), 5) for key, value in values.items()})
    return rows


def mean_precision_rows(coco: CocoResult) -> list[dict[str, float]]:
    """Rows `recall`, `precision` at IoU 0.5, averaged over the classes with ground truth."""
    valid = coco.precision[:, (coco.precision > -1).all(axis=0)]
    mean = valid.mean(axis=1) if valid.shape[1] else np.zeros(len(coco.recall))
    return [
        {"recall": round(float(recall), 2), "precision": round(float(precision), 5)}
        for recall, precision in zip(coco.recall, mean, strict=True)
    ]


def mean_confidence_rows(curves: ClassCurves, *, step: int = 10) -> list[dict[str, float]]:
    """Rows `confidence`, `precision`, `recall`, `f1` averaged over the classes; every `step`-th of 1000 thresholds."""
    values = {"precision": curves.precision, "recall": curves.recall, "f1": curves.f1}
    means = {key: value.mean(axis=0) if len(value) else np.zeros(len(CONFIDENCES)) for key, value in values.items()}
    return [
        {"confidence": round(float(CONFIDENCES[i]), 4)} | {key: round(float(mean[i]), 5) for key, mean in means.items()}
        for i in range(0, len(CONFIDENCES), step)
    ]


def draw_boxes(
    image: Image,
    boxes: NDArray[Any],
    classes: NDArray[Any],
    names: Sequence[str] | Mapping[int, str],
    *,
    scores: NDArray[Any] | None = None,
) -> Image:
    """A copy of the image with boxes, class names and scores.

    Args:
        image: uint8 BGR [h, w, 3].
        boxes: [N, 4] xyxy in pixels.
        classes: [N] class indices.
        names: class names by class index.
        scores: [N]; None: none are written.
    """
    picture = image.copy()
    sizes = Sizes.of(image)
    labels: list[int] = classes.astype(int).tolist()
    tags = []
    for i, (box, label) in enumerate(zip(boxes, labels, strict=True)):
        colour = _COLOURS[label % len(_COLOURS)]
        left, top, right, bottom = (round(float(value)) for value in np.nan_to_num(box).clip(-_FAR, _FAR))
        cv2.rectangle(picture, (left, top), (right, bottom), colour, sizes.line)
        text = names[label] if scores is None else f"{names[label]} {scores[i]:.2f}"
        tags.append((text, (left, top), colour))
    return write_tags(picture, tags, sizes)


def comparison(
    image: Image,
    truth: NDArray[Any],
    detections: Mapping[str, NDArray[Any]],
    names: Sequence[str],
    *,
    min_score: float = 0.3,
    width: int = 640,
) -> Image:
    """One row of panels: ground truth, then each set of detections under its title.

    Args:
        image: uint8 BGR [h, w, 3].
        truth: [G, 5] class, xyxy in pixels of the image.
        detections: title to [N, 6] x1, y1, x2, y2, score, class in pixels of the image.
        min_score: weaker detections are not drawn.
        width: of the whole row, in pixels.

    Returns: uint8 BGR [h', width, 3].
    """
    panel_width = width // (1 + len(detections))
    scale = panel_width / image.shape[1]
    size = (panel_width, max(1, round(image.shape[0] * scale)))
    small = _uint8(cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR))
    panels = [titled(draw_boxes(small, truth[:, 1:5] * scale, truth[:, 0], names), "ground truth")]
    for title, found in detections.items():
        found = found[found[:, 4] >= min_score]
        drawn = draw_boxes(small, found[:, :4] * scale, found[:, 5], names, scores=found[:, 4])
        panels.append(titled(drawn, title))
    row = np.concatenate(panels, axis=1)
    return _filled(row, width)


def stack_rows(rows: Sequence[Image]) -> Image:
    """Pictures uint8 BGR of any width, one below the other; white fills the right of narrow ones."""
    width = max(row.shape[1] for row in rows)
    return np.concatenate([_filled(row, width) for row in rows])


def batch_picture(images: Tensor, targets: Tensor, names: Sequence[str], *, columns: int = 4, limit: int = 8) -> Image:
    """The first images of a training batch as the network sees them, with their boxes.

    Args:
        images: uint8 RGB [B, 3, H, W].
        targets: [M, 6] image in batch, class, cx, cy, w, h as fractions of the image.
        columns: images in a row.
        limit: number of images drawn.

    Returns: uint8 BGR [h, w, 3].
    """
    labels = targets.numpy()
    height, width = images.shape[2:]
    panels = []
    for position, image in enumerate(images[:limit].numpy()):
        own = labels[labels[:, 0] == position]
        boxes = np.concatenate((own[:, 2:4] - own[:, 4:6] / 2, own[:, 2:4] + own[:, 4:6] / 2), axis=1)
        picture = np.ascontiguousarray(image[::-1].transpose(1, 2, 0))
        panels.append(draw_boxes(picture, boxes * np.array([width, height] * 2), own[:, 1], names))
    return stack_rows([np.concatenate(panels[i : i + columns], axis=1) for i in range(0, len(panels), columns)])


def save_jpeg(picture: Image, path: Path, *, quality: int = 88) -> None:
    """Write a uint8 BGR picture as JPEG.

    Raises:
        ValueError: the picture cannot be written there.
    """
    path.write_bytes(jpeg(picture, quality=quality))


def jpeg(picture: Image, *, quality: int = 88) -> bytes:
    """A uint8 BGR picture as the bytes of a JPEG file.

    Raises:
        ValueError: JPEG does not hold it (sides of more than 65,500 pixels).
    """
    try:
        done, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
    except cv2.error:
        done, data = False, np.zeros(0, np.uint8)
    if not done:
        raise ValueError(f"a picture of shape {picture.shape} cannot be encoded as JPEG")
    return data.tobytes()


def _filled(row: Image, width: int) -> Image:
    """The row with white on the right, `width` pixels wide."""
    return _uint8(cv2.copyMakeBorder(row, 0, 0, 0, width - row.shape[1], cv2.BORDER_CONSTANT, value=_WHITE))


def _uint8(picture: NDArray[Any]) -> Image:
    """The same picture; OpenCV's annotations leave the dtype open."""
    return np.asarray(picture, dtype=np.uint8)


def titled(picture: Image, title: str) -> Image:
    """A picture uint8 BGR with its title on white above it."""
    framed = _uint8(cv2.copyMakeBorder(picture, _HEADER, 0, 0, 0, cv2.BORDER_CONSTANT, value=_WHITE))
    return write_title(framed, title, height=_HEADER)
