"""Distances between the outputs of two engines, or between two lists of detections."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

Outputs = tuple[np.ndarray, np.ndarray]


def compare_outputs(found: Sequence[Outputs], wanted: Sequence[Outputs]) -> dict[str, float]:
    """Differences over several images.

    Args:
        found, wanted: one (boxes [B, A, 4] in pixels, scores [B, A, C]) per image.

    Returns: `boxes_mean`, `boxes_max` in pixels, `scores_mean`, `scores_max`, and `relative_l2`, the larger relative L2
    error of boxes and scores over all images together.
    """
    row: dict[str, float] = {}
    relative = []
    for index, name in enumerate(("boxes", "scores")):
        a = np.stack([outputs[index] for outputs in found]).astype(np.float64)
        b = np.stack([outputs[index] for outputs in wanted]).astype(np.float64)
        difference = np.abs(a - b)
        row |= {f"{name}_mean": float(difference.mean()), f"{name}_max": float(difference.max())}
        relative.append(float(np.linalg.norm(a - b) / max(float(np.linalg.norm(b)), 1e-12)))
    return row | {"relative_l2": max(relative)}


def detection_rows(outputs: Mapping[str, np.ndarray], image: int) -> np.ndarray:
    """Detections of one image of a file with suppression: float32 [N, 6] rows x1, y1, x2, y2, score, class."""
    count = int(outputs["num_dets"][image, 0])
    parts = (outputs["boxes"][image], outputs["scores"][image][:, None], outputs["classes"][image][:, None])
    return np.concatenate(parts, axis=1)[:count].astype(np.float32)


def differing_rows(found: np.ndarray, wanted: np.ndarray) -> int:
    """Number of detections [N, 6] of one list that the other [M, 6] lacks, to the last bit; the order is free."""
    a, b = (Counter(map(tuple, rows.tolist())) for rows in (found, wanted))
    return max((a - b).total(), (b - a).total())
