"""Inputs and outputs of an exported file, and the steps that the host does before and after it.

Letters: B images, A anchors, C classes, L pyramid levels, K detections.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

FORMS = ("decoded", "raw")
NMS = ("none", "topk", "onnx", "efficient_nms")
NMS_CLASSES = ("all", "best")
INPUTS = ("float", "uint8")
DETECTIONS = ("num_dets", "boxes", "scores", "classes")
"""Outputs of a file with non-maximum suppression, by the names and shapes of TensorRT's plugin."""
MAX_CANDIDATES = 3840
"""Largest K of TensorRT's TopK."""


@dataclass(frozen=True)
class Interface:
    """Inputs and outputs of a file; the default is float images to all boxes and scores.

    Attributes:
        form: 'decoded' (boxes [B, A, 4] xyxy pixels, scores [B, A, C] in 0..1) or 'raw': the maps of the prediction
            layers as they are, `logits_<stride>` [B, C, H_l, W_l] and `distances_<stride>` [B, 4 * bins, H_l, W_l].
        nms: how boxes are suppressed in the graph: 'none', 'topk' (plain operators), 'onnx' (NonMaxSuppression) or
            'efficient_nms' (TensorRT's plugin). Outputs are then num_dets int32 [B, 1], boxes [B, K, 4],
            scores [B, K] and classes int32 [B, K]; only the first num_dets of each image count.
        nms_classes: classes in which a box takes part in the suppression: 'all' above the score threshold, so that its
            second one may be left, or the 'best' alone, as `infer` reads files without suppression.
        input: 'float' (RGB [B, 3, H, W] in 0..1) or 'uint8' (BGR [B, H, W, 3] in 0..255, as OpenCV reads images).
        strides: of the levels, for form 'raw'.
        classes: C, for files with suppression; the writer fills it in.
        score_threshold, iou_threshold, max_detections: of the suppression; max_detections is K.
        candidates: number of best scores of an image that 'topk' looks at.
        shrink: pixels of the grey frame around the images, half of them on each side.
    """

    form: str = "decoded"
    nms: str = "none"
    nms_classes: str = "all"
    input: str = "float"
    strides: tuple[int, ...] = ()
    classes: int = 0
    score_threshold: float = 0.03
    iou_threshold: float = 0.65
    max_detections: int = 300
    candidates: int = 1000
    shrink: int = 0

    def __post_init__(self) -> None:
        for name, allowed in (("form", FORMS), ("nms", NMS), ("nms_classes", NMS_CLASSES), ("input", INPUTS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(allowed)}")
        if self.form == "raw" and self.nms != "none":
            raise ValueError(f"nms {self.nms!r} suppresses decoded boxes; choose form 'decoded', or nms 'none'")
        if self.form == "raw" and not self.strides:
            raise ValueError("form 'raw' needs the strides of the levels, to decode its outputs")
        if not 1 <= self.max_detections <= MAX_CANDIDATES:
            raise ValueError(f"max_detections is {self.max_detections}; 1 to {MAX_CANDIDATES} are possible")
        if self.nms == "topk" and not self.max_detections <= self.candidates <= MAX_CANDIDATES:
            raise ValueError(
                f"candidates is {self.candidates}; at least max_detections ({self.max_detections}) and at most "
                f"{MAX_CANDIDATES} are possible"
            )

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the file's outputs, in order."""
        if self.nms != "none":
            return DETECTIONS
        if self.form == "raw":
            return tuple(f"{kind}_{stride}" for kind in ("logits", "distances") for stride in self.strides)
        return ("boxes", "scores")

    def notes(self) -> dict[str, str]:
        """Entries for a file's own metadata; a file of the default interface needs none."""
        notes = {name: getattr(self, name) for name in ("form", "nms", "input", "shrink")}
        notes = {name: str(value) for name, value in notes.items() if value != getattr(Interface, name)}
        if self.form == "raw":
            notes["strides"] = ",".join(map(str, self.strides))
        if self.nms != "none":
            names = ("nms_classes", "classes", "score_threshold", "iou_threshold", "max_detections", "candidates")
            notes |= {name: str(getattr(self, name)) for name in names}
        return notes

    @classmethod
    def of(cls, model: onnx.ModelProto) -> Interface:
        """Read the metadata of a file. Raises ValueError for values that this version does not know."""
        notes = {entry.key: entry.value for entry in model.metadata_props}
        found: dict[str, Any] = {name: notes[name] for name in ("form", "nms", "nms_classes", "input") if name in notes}
        if "strides" in notes:
            found["strides"] = tuple(int(text) for text in notes["strides"].split(","))
        for name in ("classes", "max_detections", "candidates", "shrink"):
            found |= {name: int(notes[name])} if name in notes else {}
        for name in ("score_threshold", "iou_threshold"):
            found |= {name: float(notes[name])} if name in notes else {}
        return cls(**found)

    def feed(self, images: np.ndarray) -> np.ndarray:
        """Images [B, 3, H, W] float32 RGB in 0..1 as the file takes them."""
        if self.input == "float":
            return np.ascontiguousarray(images, dtype=np.float32)
        pixels = np.rint(images * np.float32(255)).astype(np.uint8)
        return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)[..., ::-1])

    def finish(self, outputs: Mapping[str, np.ndarray], image_size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Outputs of a file, by name, to boxes [B, A, 4] xyxy pixels and scores [B, A, C] float32.

        After suppression in the graph, A is K. Each detection has its score for its class and zeros elsewhere, so a
        second suppression with the same thresholds changes nothing.
        """
        if self.nms != "none":
            return outputs["boxes"], self._spread(outputs)
        if self.form == "raw":
            maps = [[outputs[f"{kind}_{stride}"] for stride in self.strides] for kind in ("logits", "distances")]
            return decode_maps(*maps, image_size=image_size, strides=self.strides)
        return outputs["boxes"], outputs["scores"]

    def considered(self, scores: np.ndarray) -> np.ndarray:
        """Scores [A, C] of one image, zero where the suppression never looks at them."""
        if self.nms_classes == "best":
            scores = best_scores(scores)
        if self.nms != "topk" or scores.size <= self.candidates:
            return scores
        least = np.partition(scores, -self.candidates, axis=None)[-self.candidates]
        return np.where(scores >= least, scores, 0)

    def _spread(self, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """[B, K, C] of the scores [B, K] of detections that count."""
        scores, classes = outputs["scores"], outputs["classes"]
        counts = np.arange(scores.shape[1]) < outputs["num_dets"]
        spread = np.zeros((*scores.shape, self.classes), np.float32)
        image, rank = np.nonzero(counts)
        spread[image, rank, classes[image, rank]] = scores[image, rank]
        return spread


def best_scores(scores: np.ndarray) -> np.ndarray:
    """Scores [..., A, C] with the best one of each anchor, the first of equal ones, and zeros elsewhere."""
    best = scores.argmax(axis=-1, keepdims=True)
    return np.where(np.arange(scores.shape[-1]) == best, scores, 0)


PLAIN = Interface()
"""Float images to all boxes and scores."""


def decode_maps(
    logits: list[np.ndarray], distances: list[np.ndarray], *, image_size: tuple[int, int], strides: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Prediction maps to boxes [B, A, 4] xyxy pixels and scores [B, A, C] in 0..1, as `models.head.decode` does.

    Args:
        logits, distances: per level [B, C, H_l, W_l] and [B, 4 * bins, H_l, W_l], sides l, t, r, b in stride units.
        image_size: (height, width) of the network input.
    """
    scores = _per_anchor(logits)
    np.negative(scores, out=scores)
    with np.errstate(over="ignore"):  # exp of a large number is infinite, and the score is then 0
        np.exp(scores, out=scores)
    scores = np.reciprocal(scores + 1)
    sides = _per_anchor(distances)
    if sides.shape[-1] > 4:
        bins = sides.reshape(*sides.shape[:-1], 4, -1)  # the expectation over the bins (GFL, 2006.04388)
        weights = np.exp(bins - bins.max(axis=-1, keepdims=True))
        sides = (weights / weights.sum(axis=-1, keepdims=True)) @ np.arange(bins.shape[-1], dtype=np.float32)
    points, stride = _points(image_size, strides)
    sides = sides * stride
    return np.concatenate((points - sides[..., :2], points + sides[..., 2:]), axis=-1), scores


def _per_anchor(maps: list[np.ndarray]) -> np.ndarray:
    """[B, A, values]."""
    return np.concatenate([x.reshape(*x.shape[:2], -1) for x in maps], axis=2).transpose(0, 2, 1)


def _points(image_size: tuple[int, int], strides: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Cell centres [A, 2] (x, y) in pixels and strides [A, 1], level by level, row by row."""
    points, per_anchor = [], []
    for stride in strides:
        rows, columns = np.mgrid[: image_size[0] // stride, : image_size[1] // stride]
        level = np.stack((columns, rows), axis=-1).reshape(-1, 2)
        points.append((level.astype(np.float32) + np.float32(0.5)) * np.float32(stride))
        per_anchor.append(np.full((len(level), 1), stride, np.float32))
    return np.concatenate(points), np.concatenate(per_anchor)
