"""Pictures of the report: an image, and over it the boxes of the ground truth and of each kind of engine."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from yolov6core.data.dataset import DetectionDataset
from yolov6core.report.disagreement import NONE, SHOWN_SCORE, Found, in_words, most_different
from yolov6core.report.run_files import Run

TRUTH = "ground truth"
MOST_SAMPLES = 6
MOST_DIFFERENT = 6
LONGEST = 480
"""Longest side of an embedded picture, pixels."""
UNITS = 400
"""Width of a drawing of boxes, whatever the picture's, so that its text has one size on all pictures."""
LONGEST_SHEET = 960
"""The same of a sheet of many pictures."""
QUALITY = 78
"""Of its JPEG."""


def pictures(run: Run, dataset: DetectionDataset, int8: str | None) -> dict[str, Any]:
    """Samples spread over the split, and the images on which float and the INT8 kind differ most.

    Images that are not there any more are left out.
    """
    found = run.detections()
    count = min(MOST_SAMPLES, len(dataset))
    spread = sorted({round(i * (len(dataset) - 1) / max(count - 1, 1)) + 1 for i in range(count)})
    samples = [figure for image in spread for figure in _figure(dataset, found, image, "")]
    different = []
    if int8 in found and "float" in found:
        first, second = found["float"], found[int8]
        for image, pairing in most_different(first, second, limit=MOST_DIFFERENT):
            boxes = first.get(image, NONE), second.get(image, NONE)
            words = in_words(pairing, *boxes, ("float", int8), dataset.names)
            different += _figure(dataset, found, image, words)
    return {
        "samples": samples,
        "different": different,
        "layers": [TRUTH, *found],
        "left": "float" if "float" in found else TRUTH,
        "right": int8 or TRUTH,
        "score": SHOWN_SCORE,
    }


def _figure(
    dataset: DetectionDataset, found: Mapping[str, Mapping[int, Found]], image: int, words: str
) -> Iterator[dict[str, Any]]:
    """One picture with its layers; none if the image cannot be read."""
    try:
        pixels, labels = dataset.load(image - 1)
    except ValueError:
        return
    height, width = pixels.shape[:2]
    scale = min(1.0, LONGEST / max(height, width))
    small = cv2.resize(
        pixels, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=cv2.INTER_AREA
    )
    unit = UNITS / width
    truth = np.concatenate([labels[:, 1:5], np.ones((len(labels), 1)), labels[:, :1]], axis=1)
    layers = {TRUTH: _boxes(truth, unit, dataset.names, scored=False)}
    for kind, own in found.items():
        boxes = own.get(image, NONE)
        layers[kind] = _boxes(boxes[boxes[:, 4] >= SHOWN_SCORE], unit, dataset.names, scored=True)
    yield {
        "name": dataset.paths[image - 1].name,
        "words": words,
        "source": data_uri(np.asarray(small, dtype=np.uint8)),
        "width": small.shape[1],
        "height": small.shape[0],
        "units": (UNITS, round(height * unit)),
        "layers": layers,
        "counts": ", ".join(f"{len(boxes)} {title}" for title, boxes in layers.items()),
    }


def _boxes(boxes: NDArray[Any], unit: float, names: Sequence[str], *, scored: bool) -> list[dict[str, Any]]:
    return [
        {
            "x": round(left * unit, 1),
            "y": round(top * unit, 1),
            "w": round(max(right - left, 0) * unit, 1),
            "h": round(max(bottom - top, 0) * unit, 1),
            "hue": int(label) % 7,
            "text": f"{names[int(label)]} {score:.2f}" if scored else names[int(label)],
        }
        for left, top, right, bottom, score, label in boxes.tolist()
    ]


def picture_file(path: Path) -> str | None:
    """The address of a picture in the page, made smaller; None if it is not there."""
    picture = cv2.imread(str(path)) if path.is_file() else None
    if picture is None:
        return None
    scale = min(1.0, LONGEST_SHEET / max(picture.shape[:2]))
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    return data_uri(np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), dtype=np.uint8))


def data_uri(picture: NDArray[np.uint8]) -> str:
    """A uint8 BGR picture [h, w, 3] as a JPEG inside an address."""
    done, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not done:
        raise ValueError(f"a picture of shape {picture.shape} cannot be encoded as JPEG")
    return f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}"
