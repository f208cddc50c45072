"""The pictures of a bundle, the tensors that they become, and what torch makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from yolov6core.base.errors import UserError
from yolov6core.bundle.network import TorchNetwork
from yolov6core.data.dataset import DetectionDataset
from yolov6core.data.loader import shrunk
from yolov6core.data.transforms import Image, Letterbox, chw_rgb, letterbox, network_input
from yolov6core.evaluation.evaluator import in_source_pixels
from yolov6core.evaluation.nms import nms
from yolov6core.exchange.compare import Outputs, compare_outputs
from yolov6core.exchange.interface import Interface

COUNT = 3
LOOKED_AT = 64
"""Images among which those with most objects are chosen."""
MAX_PIXELS = 2**21
"""Larger pictures are made smaller, so that a bundle stays small."""
SCORE = 0.25
"""Weakest score of the detections that torch's list has, unless the suppression in the graph asks for more."""
NO_LABELS = np.zeros((0, 5), np.float32)


@dataclass(frozen=True)
class Sample:
    """A picture uint8 BGR [h, w, 3], the input uint8 RGB [3, H, W] that it becomes, and where it lies in it."""

    picture: Image
    pixels: NDArray[np.uint8]
    geometry: Letterbox

    @property
    def batch(self) -> NDArray[np.float32]:
        """The input as float32 [1, 3, H, W] in 0..1."""
        return network_input(torch.from_numpy(self.pixels)[None], memory_format=torch.contiguous_format).numpy()


def choose_samples(dataset_dir: Path, source: TorchNetwork) -> list[Sample]:
    """The calibration images with most objects, COUNT of them where there are so many.

    Raises:
        UserError: the dataset is missing or cannot be read.
    """
    size = source.card.image_size
    try:
        dataset = DetectionDataset(dataset_dir, "calib", limit=LOOKED_AT)
        objects = [len(dataset.labels_in(index, 1, 1)) for index in range(len(dataset))]
        chosen = sorted(np.argsort(-np.array(objects), kind="stable")[:COUNT].tolist())
        pictures = [_small(dataset.load(index)[0]) for index in chosen]
    except ValueError as error:
        raise UserError(f"{error}") from None
    samples = []
    for picture in pictures:
        fitted, _, geometry = letterbox(
            picture, NO_LABELS, size=size, inside=shrunk(size, source.card.shrink), nearest=True
        )
        samples.append(Sample(picture, chw_rgb(fitted), geometry))
    return samples


def _small(picture: Image) -> Image:
    height, width = picture.shape[:2]
    if height * width <= MAX_PIXELS:
        return picture
    ratio = (MAX_PIXELS / (height * width)) ** 0.5
    size = (max(1, int(width * ratio)), max(1, int(height * ratio)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


@dataclass(frozen=True)
class Expected:
    """What torch makes of the samples.

    Attributes:
        outputs: name -> float32 [samples, ...], the outputs of the file without the batch; empty where suppression is
            in the graph.
        detections: for each sample rows float32 [N, 6] x1, y1, x2, y2, score, class in pixels of the input.
        quantization_l2: relative L2 distance of the outputs from those of the network without quantization.
    """

    outputs: dict[str, NDArray[np.float32]]
    detections: list[NDArray[np.float32]]
    quantization_l2: float


def expected_results(source: TorchNetwork, samples: list[Sample]) -> Expected:
    """Run torch's network, fake-quantized unless it is a float one, on the samples."""
    batches = [sample.batch for sample in samples]
    decoded, exact = source.run(batches), source.run(batches, quantized=False)
    noise = compare_outputs(decoded, exact)["relative_l2"]
    found = [_detections(outputs, source.interface) for outputs in decoded]
    interface = source.interface
    if interface.nms != "none":
        return Expected({}, found, noise)
    rows = [_maps(source, batch) for batch in batches] if interface.form == "raw" else decoded
    columns = zip(*rows, strict=True)
    outputs = {name: np.concatenate(parts) for name, parts in zip(interface.outputs, columns, strict=True)}
    return Expected(outputs, found, noise)


def score_threshold(interface: Interface) -> float:
    """Weakest score of the detections that are listed and compared."""
    return max(SCORE, interface.score_threshold if interface.nms != "none" else 0.0)


def _detections(outputs: Outputs, interface: Interface) -> NDArray[np.float32]:
    boxes, scores = outputs
    return nms(
        boxes[0],
        interface.considered(scores[0]),
        score_threshold=score_threshold(interface),
        iou_threshold=interface.iou_threshold,
        max_detections=interface.max_detections,
    )


@torch.inference_mode()
def _maps(source: TorchNetwork, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Prediction maps [1, values, H_l, W_l]: logits of all levels, then distances of all levels."""
    height, width = source.card.image_size
    sides = [(height // stride, width // stride) for stride in source.card.strides]
    found = []
    for values in source.network(torch.from_numpy(batch)):
        parts = values.split([rows * columns for rows, columns in sides], dim=1)
        found += [part.transpose(1, 2).reshape(1, -1, *side).numpy() for part, side in zip(parts, sides, strict=True)]
    return found


def listed(sample: Sample, rows: NDArray[np.float32], names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Detections for people: class, score, and box xyxy in pixels of the picture and of the input."""
    there = in_source_pixels(rows, sample.geometry)
    return [
        {
            "class": names[int(row[5])],
            "score": round(float(row[4]), 4),
            "box_in_picture": [round(float(value), 2) for value in place[:4]],
            "box_in_input": [round(float(value), 2) for value in row[:4]],
        }
        for row, place in zip(rows, there, strict=True)
    ]
