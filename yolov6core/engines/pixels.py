"""Engines that take pixels as cameras give them, and the same pixels for those that do not."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import cv2
import numpy as np


@runtime_checkable
class TakesPixels(Protocol):
    """An engine with the work before the network inside of it."""

    def infer_pixels(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels uint8 BGR [B, H, W, 3], contiguous, to boxes [B, A, 4] and scores [B, A, C], as `Engine.infer`.

        B is one that the engine takes. The results may lie in the engine's own memory: they last until its next call.
        """
        ...


def float_images(pixels: np.ndarray) -> np.ndarray:
    """Pixels uint8 BGR [B, H, W, 3] as `Engine.infer` takes images: float32 RGB [B, 3, H, W] in 0..1."""
    count, height, width, _ = pixels.shape
    planes = np.empty((count, 3, height, width), np.uint8)
    for picture, channels in zip(pixels, planes, strict=True):
        cv2.split(picture, list(channels[::-1]))  # nine times as fast as a transposed copy
    # As `transforms.network_input` divides, without waking torch's threads for one picture.
    return np.divide(planes, np.float32(255), dtype=np.float32)
