"""Training augmentation: mosaic (YOLOv4, 2004.10934), mixup (1710.09412), composed with the plain transforms."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from yolov6core.data.dataset import DetectionDataset
from yolov6core.data.transforms import (
    GREY,
    Affine,
    Image,
    Labels,
    Size,
    chw_rgb,
    flip_horizontal,
    flip_vertical,
    normalised_labels,
    pad_to,
    scale_hsv,
    warp_affine,
    with_boxes,
)

MIXUP_BETA = 32.0
NOTHING = (np.zeros((0, 0, 3), dtype=np.uint8), np.zeros((0, 5), dtype=np.float32))
"""An image without pixels, and its labels."""
BROKEN_SHARE = 0.01
"""Share of images that may be unreadable in training: more means a moved folder or a lost disk, not a bad file."""

logger = logging.getLogger("yolov6-quant")


def mosaic(
    samples: Sequence[tuple[Image, Labels]], *, size: Size, centre: tuple[int, int], canvas: Image | None = None
) -> tuple[Image, Labels]:
    """Four images around a point of a grey canvas of twice `size`: top left, top right, bottom left, bottom right.

    Each image touches the centre with one corner; parts outside the canvas are cut off.

    Args:
        samples: four (image, labels), images not larger than the canvas.
        centre: (y, x) in pixels of the canvas.
        canvas: uint8 [2 h, 2 w, 3] to draw on; None allocates a new one.

    Returns: image [2 h, 2 w, 3] and labels in its pixels, clipped to it. Boxes may be empty; `warp_affine` drops them.

    Raises:
        ValueError: there are not four samples.
    """
    if len(samples) != 4:
        raise ValueError(f"a mosaic takes 4 images, got {len(samples)}")
    if canvas is None:
        canvas = np.empty((size[0] * 2, size[1] * 2, 3), dtype=np.uint8)
    canvas.fill(GREY[0])
    centre_y, centre_x = centre
    placed = []
    for position, (image, labels) in enumerate(samples):
        height, width = image.shape[:2]
        top = centre_y - height if position < 2 else centre_y
        left = centre_x - width if position % 2 == 0 else centre_x
        y1, x1 = max(top, 0), max(left, 0)
        y2, x2 = min(top + height, canvas.shape[0]), min(left + width, canvas.shape[1])
        canvas[y1:y2, x1:x2] = image[y1 - top : y2 - top, x1 - left : x2 - left]
        placed.append(with_boxes(labels, labels[:, 1:5] + np.array([left, top] * 2, dtype=np.float32)))
    labels = np.concatenate(placed)
    bounds = np.array([canvas.shape[1], canvas.shape[0]] * 2, dtype=np.float32)
    return canvas, with_boxes(labels, np.clip(labels[:, 1:5], 0, bounds))


def visible_quarters(matrix: NDArray[np.float64], size: Size, centre: tuple[int, int]) -> tuple[bool, ...]:
    """Which images of a mosaic a warp may show; the others need not be read, one in twelve by default.

    Args:
        matrix: 3 x 3, from pixels of the canvas to pixels of the output.
        size: (height, width) of the output.
        centre: (y, x) in pixels of the canvas, as of `mosaic`.

    Returns: top left, top right, bottom left, bottom right; all true for warps that turn or shear, because their boxes
    may reach further than the objects.
    """
    if matrix[0, 1] or matrix[1, 0]:
        return True, True, True, True
    # 2 pixels: bilinear sampling reaches one pixel further, and OpenCV rounds the coordinates
    first = (0 - matrix[:2, 2]) / matrix.diagonal()[:2] - 2
    last = (np.array([size[1], size[0]]) - matrix[:2, 2]) / matrix.diagonal()[:2] + 2
    left, top = first[0] < centre[1], first[1] < centre[0]
    right, bottom = last[0] > centre[1], last[1] > centre[0]
    return top and left, top and right, bottom and left, bottom and right


def mixup(first: tuple[Image, Labels], second: tuple[Image, Labels], *, share: float) -> tuple[Image, Labels]:
    """`share` times the first image plus (1 - `share`) times the second, both uint8 [h, w, 3]; labels of both."""
    blend = first[0] * share + second[0] * (1 - share)
    return blend.astype(np.uint8), np.concatenate((first[1], second[1]))


@dataclass(frozen=True)
class Strengths:
    """Limits of the changes to a training image.

    Attributes:
        mosaic, mixup, flip_lr, flip_ud: probabilities. Mixup only joins two mosaics.
        degrees, shear: largest angle in degrees; translate, scale: largest change as a fraction.
        hsv_h, hsv_s, hsv_v: largest relative change of hue, saturation and value.

    Raises:
        ValueError: a value outside of its range.
    """

    mosaic: float = 1.0
    mixup: float = 0.0
    degrees: float = 0.0
    translate: float = 0.1
    scale: float = 0.5
    shear: float = 0.0
    hsv_h: float = 0.015
    hsv_s: float = 0.7
    hsv_v: float = 0.4
    flip_lr: float = 0.5
    flip_ud: float = 0.0

    def __post_init__(self) -> None:
        for name in ("mosaic", "mixup", "flip_lr", "flip_ud", "hsv_h", "hsv_s", "hsv_v", "translate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be in 0..1")
        if not 0 <= self.scale < 1:
            raise ValueError(f"scale is {self.scale}, must be at least 0 and below 1")

    def draw_affine(self, rng: np.random.Generator) -> Affine:
        """A random affine transform within the limits."""
        angle, scale, shear_x, shear_y, x, y = rng.uniform(-1, 1, 6)
        return Affine(
            angle=angle * self.degrees,
            scale=1 + scale * self.scale,
            shear_x=shear_x * self.shear,
            shear_y=shear_y * self.shear,
            centre_x=0.5 + x * self.translate,
            centre_y=0.5 + y * self.translate,
        )

    def draw_hsv(self, rng: np.random.Generator) -> tuple[float, float, float]:
        """Random gains of hue, saturation and value within the limits."""
        hue, saturation, value = rng.uniform(-1, 1, 3)
        return 1 + hue * self.hsv_h, 1 + saturation * self.hsv_s, 1 + value * self.hsv_v


class TrainTransform:
    """One augmented training sample per call; all random numbers come from the generator of the call.

    Args:
        dataset: images and labels; mosaic and mixup take further images from it.
        image_size: (height, width) of the network input.
        **strengths: see `Strengths`.
    """

    def __init__(self, dataset: DetectionDataset, *, image_size: Size, **strengths: float) -> None:
        self.dataset = dataset
        self.image_size = (image_size[0], image_size[1])
        self.strengths = Strengths(**strengths)
        self._broken: set[int] = set()
        self._canvas = np.empty((image_size[0] * 2, image_size[1] * 2, 3), dtype=np.uint8)

    def __call__(self, index: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Sample `index`: image uint8 RGB [3, H, W], labels float32 [n, 5] class, cx, cy, w, h (fractions)."""
        strengths = self.strengths
        if rng.random() < strengths.mosaic:
            image, labels = self._mosaic(index, rng)
            if rng.random() < strengths.mixup:
                other = self._mosaic(int(rng.integers(len(self.dataset))), rng)
                image, labels = mixup((image, labels), other, share=rng.beta(MIXUP_BETA, MIXUP_BETA))
        else:
            image, labels = self._single(index, rng)
        image = scale_hsv(image, strengths.draw_hsv(rng))
        if rng.random() < strengths.flip_ud:
            image, labels = flip_vertical(image, labels)
        if rng.random() < strengths.flip_lr:
            image, labels = flip_horizontal(image, labels)
        return chw_rgb(image), normalised_labels(labels, self.image_size)

    def _load(self, index: int) -> tuple[Image, Labels]:
        """Image and labels fitted to the input; for an unreadable image a warning, and grey without labels.

        Raises:
            ValueError: more than BROKEN_SHARE of the images, and more than one, cannot be read.
        """
        try:
            return self.dataset.load_fitted(index, self.image_size)
        except ValueError as error:
            if index not in self._broken:
                self._broken.add(index)
                text = "%s; training goes on with a grey picture in its place (%d of %d images so far)"
                logger.warning(text, error, len(self._broken), len(self.dataset))
            if len(self._broken) > max(1, BROKEN_SHARE * len(self.dataset)):
                raise ValueError(
                    f"{error}. That makes {len(self._broken)} of {len(self.dataset)} training images, more than a "
                    f"training goes on without ({BROKEN_SHARE:.0%}); run prepare-voc2yolo again with prepare.decode: "
                    "all, which leaves such images out"
                ) from error
            return np.full((*self.image_size, 3), GREY[0], dtype=np.uint8), np.zeros((0, 5), dtype=np.float32)

    def _mosaic(self, index: int, rng: np.random.Generator) -> tuple[Image, Labels]:
        height, width = self.image_size
        indices = [index, *rng.integers(len(self.dataset), size=3).tolist()]
        centre = (int(rng.uniform(0.5, 1.5) * height), int(rng.uniform(0.5, 1.5) * width))
        affine = self.strengths.draw_affine(rng)
        seen = visible_quarters(affine.matrix((2 * height, 2 * width), self.image_size), self.image_size, centre)
        samples = [self._load(i) if visible else NOTHING for i, visible in zip(indices, seen, strict=True)]
        # the warped picture is a new array, so the next mosaic may overwrite the canvas
        image, labels = mosaic(samples, size=self.image_size, centre=centre, canvas=self._canvas)
        return warp_affine(image, labels, affine=affine, size=self.image_size)

    def _single(self, index: int, rng: np.random.Generator) -> tuple[Image, Labels]:
        image, labels = self._load(index)
        image, left, top = pad_to(image, self.image_size)
        labels = with_boxes(labels, labels[:, 1:5] + np.array([left, top] * 2, dtype=np.float32))
        return warp_affine(image, labels, affine=self.strengths.draw_affine(rng), size=self.image_size)
