"""Pictures letterboxed straight into memory that is used again and again."""

from __future__ import annotations

import cv2
import numpy as np

from yolov6core.data.transforms import GREY, Image, Letterbox, Size, fitted_size, resize_method


class Canvas:
    """Pixels of a batch, uint8 BGR [B, H, W, 3]: grey, and in each slot the last picture that was put there.

    Grey is painted only where a picture lies elsewhere than the one before: never in a video.
    """

    def __init__(self, count: int, size: Size, *, inside: Size | None = None, nearest: bool = False) -> None:
        """Args: see `transforms.letterbox`."""
        self.pixels = np.full((count, *size, 3), GREY, dtype=np.uint8)
        self._inside, self._nearest = inside or size, nearest
        self._places: list[tuple[int, ...]] = [()] * count

    def put(self, slot: int, image: Image) -> Letterbox:
        """Letterbox a picture [h, w, 3] into a slot, to the same pixels as `transforms.letterbox`, and say where."""
        picture, source = self.pixels[slot], (image.shape[0], image.shape[1])
        height, width = fitted_size(source, self._inside, nearest=self._nearest)
        top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
        if self._places[slot] != (top, left, height, width):
            picture.fill(GREY[0])  # all channels alike; one by one they take fifty times as long
            self._places[slot] = (top, left, height, width)
        inner = picture[top : top + height, left : left + width]
        if (height, width) == source:
            np.copyto(inner, image)
        else:
            cv2.resize(image, (width, height), dst=inner, interpolation=resize_method(source, (height, width)))
        return Letterbox(width / source[1], height / source[0], left, top, source)
