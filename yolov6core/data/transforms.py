"""Image transforms with their boxes, as pure functions.

Images are uint8 BGR [h, w, 3]; labels are float32 [n, 5]: class, then xyxy in pixels. No function changes its inputs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# OpenCV's stubs do not know that a result has the dtype of the argument, hence the casts to Image.
Image = NDArray[np.uint8]
Labels = NDArray[np.float32]
Size = tuple[int, int]

GREY = (114, 114, 114)


@dataclass(frozen=True)
class Letterbox:
    """Place of a source image in the network input: x_network = x_source * scale_x + left (pixels), likewise y."""

    scale_x: float
    scale_y: float
    left: int
    top: int
    source_size: Size

    def to_network(self, boxes: NDArray) -> NDArray[np.float32]:
        """Boxes [n, 4] xyxy of source pixels to pixels of the network input."""
        scale = np.array([self.scale_x, self.scale_y] * 2)
        return (boxes * scale + np.array([self.left, self.top] * 2)).astype(np.float32)

    def to_source(self, boxes: NDArray) -> NDArray[np.float32]:
        """Boxes [n, 4] xyxy of network pixels to source pixels, clipped to the source image."""
        height, width = self.source_size
        mapped = boxes - np.array([self.left, self.top] * 2)
        mapped /= np.array([self.scale_x, self.scale_y] * 2)
        np.maximum(mapped, 0, out=mapped)
        return np.minimum(mapped, np.array([width, height] * 2), out=mapped).astype(np.float32)


@dataclass(frozen=True)
class Affine:
    """Parameters of one affine transform.

    Rotation and shear are in degrees. `centre_x` and `centre_y` place the centre of the image in fractions of the
    output; 0.5 keeps it in the middle.
    """

    angle: float = 0.0
    scale: float = 1.0
    shear_x: float = 0.0
    shear_y: float = 0.0
    centre_x: float = 0.5
    centre_y: float = 0.5

    def matrix(self, source: Size, target: Size) -> NDArray[np.float64]:
        """3 x 3 matrix from source pixels to target pixels: centre to origin, rotate and scale, shear, translate."""
        angle = math.radians(self.angle)
        cos, sin = self.scale * math.cos(angle), self.scale * math.sin(angle)
        to_origin = np.array([[1, 0, -source[1] / 2], [0, 1, -source[0] / 2], [0, 0, 1]])
        rotate = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
        tan_x, tan_y = math.tan(math.radians(self.shear_x)), math.tan(math.radians(self.shear_y))
        shear = np.array([[1, tan_x, 0], [tan_y, 1, 0], [0, 0, 1]])
        place = np.array([[1, 0, self.centre_x * target[1]], [0, 1, self.centre_y * target[0]], [0, 0, 1]])
        return place @ shear @ rotate @ to_origin


def fitted_size(source: Size, target: Size, *, enlarge: bool = True, nearest: bool = False) -> Size:
    """Largest (height, width) with the source's aspect ratio inside `target`, at least 1 pixel each.

    Args:
        enlarge: whether a source smaller than the target grows.
        nearest: round to the nearest pixel (single pictures) instead of down (datasets: published scores need it).
    """
    ratio = min(target[0] / source[0], target[1] / source[1])
    if not enlarge:
        ratio = min(ratio, 1.0)
    whole = round if nearest else _floor
    return max(1, whole(source[0] * ratio)), max(1, whole(source[1] * ratio))


def _floor(value: float) -> int:
    # the longer side is target / source * source, which may be one float below the whole number
    return math.floor(value + 1e-9)


def letterbox(
    image: Image,
    labels: Labels,
    *,
    size: Size,
    inside: Size | None = None,
    enlarge: bool = True,
    nearest: bool = False,
    interpolation: int | None = None,
) -> tuple[Image, Labels, Letterbox]:
    """Scale an image to fit and pad it with grey to exactly `size` (height, width), centred on whole pixels.

    Args:
        inside: smaller size to fit into (evaluation with a shrunk picture); None means `size`.
        enlarge, nearest: see `fitted_size`.
        interpolation: an OpenCV method; None averages areas when shrinking and is bilinear when enlarging.

    Returns: image [*size, 3], labels in its pixels, and the geometry to map boxes back.
    """
    source = image.shape[:2]
    height, width = fitted_size(source, inside or size, enlarge=enlarge, nearest=nearest)
    if (height, width) != source:
        method = resize_method(source, (height, width)) if interpolation is None else interpolation
        image = cast(Image, cv2.resize(image, (width, height), interpolation=method))
    image, left, top = pad_to(image, size)
    geometry = Letterbox(width / source[1], height / source[0], left, top, (source[0], source[1]))
    return image, with_boxes(labels, geometry.to_network(labels[:, 1:5])), geometry


def resize_method(source: Size, target: Size) -> int:
    """OpenCV's method between two sizes (height, width): averages areas when shrinking, bilinear when enlarging."""
    return cv2.INTER_AREA if target[0] * target[1] < source[0] * source[1] else cv2.INTER_LINEAR


def pad_to(image: Image, size: Size) -> tuple[Image, int, int]:
    """Put an image into the middle of a grey picture of `size`; an odd pixel goes right or below.

    Returns: image, left and top padding in pixels.

    Raises:
        ValueError: the image is larger than `size`.
    """
    height, width = image.shape[:2]
    if height > size[0] or width > size[1]:
        raise ValueError(f"an image of {height} x {width} does not fit into {size[0]} x {size[1]}; resize it first")
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    if (height, width) == size:
        return image, left, top
    bottom, right = size[0] - height - top, size[1] - width - left
    padded = cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=GREY)
    return cast(Image, padded), left, top


def with_boxes(labels: Labels, boxes: NDArray) -> Labels:
    """Labels [n, 5] with other boxes [n, 4]."""
    return np.concatenate((labels[:, :1], boxes), axis=1, dtype=np.float32)


def flip_horizontal(image: Image, labels: Labels) -> tuple[Image, Labels]:
    """Mirror left and right."""
    left, right = labels[:, 1], labels[:, 3]
    width = image.shape[1]
    boxes = np.stack((width - right, labels[:, 2], width - left, labels[:, 4]), axis=1)
    return cast(Image, cv2.flip(image, 1)), with_boxes(labels, boxes)


def flip_vertical(image: Image, labels: Labels) -> tuple[Image, Labels]:
    """Mirror top and bottom."""
    top, bottom = labels[:, 2], labels[:, 4]
    height = image.shape[0]
    boxes = np.stack((labels[:, 1], height - bottom, labels[:, 3], height - top), axis=1)
    return cast(Image, cv2.flip(image, 0)), with_boxes(labels, boxes)


def scale_hsv(image: Image, gains: tuple[float, float, float]) -> Image:
    """Multiply hue (mod 180), saturation and value (both clipped at 255) by `gains`; all 1 returns the image itself."""
    if all(gain == 1 for gain in gains):
        return image
    ramp = np.arange(256, dtype=np.float64)
    tables = (ramp * gains[0] % 180, np.clip(ramp * gains[1], 0, 255), np.clip(ramp * gains[2], 0, 255))
    planes = cv2.split(cv2.cvtColor(image, cv2.COLOR_BGR2HSV))  # one table at a time takes two thirds of the time
    scaled = [cv2.LUT(plane, table.astype(np.uint8)) for plane, table in zip(planes, tables, strict=True)]
    return cast(Image, cv2.cvtColor(cv2.merge(scaled), cv2.COLOR_HSV2BGR))


def warp_affine(image: Image, labels: Labels, *, affine: Affine, size: Size) -> tuple[Image, Labels]:
    """Apply an affine transform; the outside is grey; boxes become the bounds of their warped corners.

    Boxes are clipped to the output. Boxes that lost too much are dropped (see `boxes_worth_keeping`).

    Returns: image [*size, 3] and labels [m, 5], m <= n.
    """
    matrix = affine.matrix(image.shape[:2], size)
    if image.shape[:2] != size or not np.array_equal(matrix, np.eye(3)):
        image = cast(Image, cv2.warpAffine(image, matrix[:2], (size[1], size[0]), borderValue=GREY))
    boxes = warp_boxes(labels[:, 1:5], matrix)
    boxes = np.clip(boxes, 0, np.array([size[1], size[0]] * 2))
    keep = boxes_worth_keeping(labels[:, 1:5] * affine.scale, boxes)
    return image, with_boxes(labels[keep], boxes[keep])


def warp_boxes(boxes: NDArray, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Axis-parallel bounds [n, 4] of boxes [n, 4] xyxy after a 3 x 3 affine matrix."""
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2).astype(np.float64)
    warped = corners @ matrix[:2, :2].T + matrix[:2, 2]
    return np.concatenate((warped.min(axis=1), warped.max(axis=1)), axis=1)


def boxes_worth_keeping(
    before: NDArray,
    after: NDArray,
    *,
    min_side: float = 2.0,
    min_area_left: float = 0.1,
    max_aspect: float = 20.0,
) -> NDArray[np.bool_]:
    """Which boxes are still objects after clipping: [n] bool.

    Args:
        before: [n, 4] xyxy, scaled like the output but not clipped.
        after: [n, 4] xyxy after clipping.
        min_side: both sides must be longer, pixels.
        min_area_left: share of the area that must be left.
        max_aspect: longest allowed side relative to the other one.
    """
    tiny = 1e-16
    before_size, size = before[:, 2:4] - before[:, :2], after[:, 2:4] - after[:, :2]
    area_left = size.prod(axis=1) / (before_size.prod(axis=1) + tiny)
    aspect = np.maximum(size[:, 0] / (size[:, 1] + tiny), size[:, 1] / (size[:, 0] + tiny))
    return (size > min_side).all(axis=1) & (area_left > min_area_left) & (aspect < max_aspect)


def chw_rgb(image: Image) -> Image:
    """BGR [h, w, 3] to contiguous RGB [3, h, w]."""
    planes = np.empty((3, *image.shape[:2]), dtype=np.uint8)
    cv2.split(image, list(planes[::-1]))  # nine times as fast as a transposed copy
    return planes


def normalised_labels(labels: Labels, size: Size) -> Labels:
    """Class, xyxy in pixels [n, 5] to class, cx, cy, w, h as fractions of (height, width) `size`."""
    corners = labels[:, 1:5].astype(np.float64) / np.array([size[1], size[0]] * 2)
    centre, extent = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    return np.concatenate((labels[:, :1], centre, extent), axis=1, dtype=np.float32)


def network_input(
    images: Tensor, device: str = "cpu", *, memory_format: torch.memory_format = torch.channels_last
) -> Tensor:
    """uint8 [B, 3, H, W] to float32 in 0..1 on `device`, in channels-last layout unless asked otherwise."""
    return images.to(device, memory_format=memory_format).float().div_(255)
