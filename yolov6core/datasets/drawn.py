"""Draws the synthetic scenes of the sample dataset: coloured shapes on a cluttered background, with exact boxes.

Every scene is a pure function of (seed, index, style), so any subset can be drawn alone. The boxes depend on integer
rasterisation only and are the same everywhere; pixels may differ in the last bit between builds of OpenCV.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple
from xml.sax.saxutils import escape

import cv2
import numpy as np

CLASS_NAMES = ("disc", "rectangle", "ring", "star", "triangle")

_SIZES = ((128, 160), (128, 160), (144, 176), (160, 192), (128, 192), (160, 128), (144, 144))  # (height, width)
_SUPERSAMPLE = 4  # masks are rasterised this many times finer than the image
_SUBPIXEL_BITS = 4
_BOX_COVERAGE = 77  # a pixel covered for 30% (of 255) belongs to the box: tips of stars count, slivers do not
_CLASS_HUES = {"disc": 5, "rectangle": 105, "ring": 145, "star": 28, "triangle": 65}  # OpenCV hue, 0..179


@dataclass(frozen=True)
class SceneStyle:
    """Difficulty of the scenes.

    Args:
        most_objects: upper end of the number of objects (the lower end is 1).
        smallest: shortest length of an object's longer side, pixels.
        largest: longest length of an object's longer side, as a share of the image's shorter side.
        least_contrast: colour distance (0..441) between an object and the background.
        least_visible: share of an object that later objects must leave uncovered.
        hue_bias: probability that an object has the usual hue of its class; at 0 the shape is the only cue.
        most_blur: standard deviation of the strongest blur, pixels.
        most_noise: standard deviation of the strongest pixel noise in full light, grey levels.
        darkest: light of the darkest scene, relative to full light. Dark scenes use few grey levels: there an 8-bit
            input hurts a network most.
        most_clutter: upper end of the number of distractor lines, and of blobs.
    """

    most_objects: int = 12
    smallest: float = 20.0
    largest: float = 0.75
    least_contrast: float = 90.0
    least_visible: float = 0.7
    hue_bias: float = 1.0
    most_blur: float = 1.0
    most_noise: float = 6.0
    darkest: float = 0.07
    most_clutter: int = 5


class DrawnObject(NamedTuple):
    """One object: `box` is (xmin, ymin, xmax, ymax) in VOC's pixels, 1-based and inclusive."""

    name: str
    box: tuple[int, int, int, int]
    truncated: bool


@dataclass(frozen=True)
class DrawnScene:
    """An image, uint8 BGR [height, width, 3], and its objects in drawing order (later ones lie on top)."""

    image: np.ndarray
    objects: tuple[DrawnObject, ...]


def draw_scene(seed: int, index: int, style: SceneStyle | None = None) -> DrawnScene:
    """Draw scene `index` of the series `seed`; None means the default style."""
    style = style or SceneStyle()
    layout_rng, paint_rng = (np.random.Generator(np.random.PCG64([seed, index, part])) for part in range(2))
    height, width = _SIZES[layout_rng.integers(len(_SIZES))]
    placed = _place_objects(height, width, style, layout_rng)
    canvas = _ground(height, width, style, paint_rng)
    for name, mask, _ in placed:
        _paint(canvas, name, mask, style, paint_rng)
    image = _photograph(canvas, style, paint_rng)
    objects = tuple(DrawnObject(name, _voc_box(mask), truncated) for name, mask, truncated in placed)
    return DrawnScene(image=image, objects=objects)


def voc_xml(scene: DrawnScene, file_name: str) -> str:
    """The VOC annotation of a scene, with a newline at its end."""
    height, width = scene.image.shape[:2]
    lines = [
        "<annotation>",
        f"  <filename>{escape(file_name)}</filename>",
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
    ]
    for item in scene.objects:
        corners = zip(("xmin", "ymin", "xmax", "ymax"), item.box, strict=True)
        lines += [
            f"  <object><name>{item.name}</name>",
            f"    <truncated>{int(item.truncated)}</truncated><difficult>0</difficult>",
            "    <bndbox>" + "".join(f"<{tag}>{value}</{tag}>" for tag, value in corners) + "</bndbox>",
            "  </object>",
        ]
    return "\n".join([*lines, "</annotation>", ""])


def _voc_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Tight box of a coverage mask, uint8 [height, width], in 1-based inclusive pixels."""
    covered = mask >= _BOX_COVERAGE
    xs, ys = np.flatnonzero(covered.any(axis=0)), np.flatnonzero(covered.any(axis=1))
    return int(xs[0]) + 1, int(ys[0]) + 1, int(xs[-1]) + 1, int(ys[-1]) + 1


def _place_objects(
    height: int, width: int, style: SceneStyle, rng: np.random.Generator
) -> list[tuple[str, np.ndarray, bool]]:
    """Choose shapes and places; each item is (class name, coverage mask uint8 [height, width], cut by the edge)."""
    wanted = 1 + int((style.most_objects - 1) * rng.random() ** 2 + 0.5)
    placed: list[tuple[str, np.ndarray, bool]] = []
    for _ in range(wanted * 8):
        if len(placed) == wanted:
            break
        name = CLASS_NAMES[rng.integers(len(CLASS_NAMES))]
        outline, hole = _shape(name, height, width, style, rng)
        mask = _rasterise((height, width), outline, hole)
        whole = abs(_polygon_area(outline)) - (abs(_polygon_area(hole)) if hole is not None else 0.0)
        inside = float(mask.sum()) / 255.0
        if inside < 0.6 * whole or inside < 20 or (mask >= _BOX_COVERAGE).sum() < 20:
            continue
        candidate = [*placed, (name, mask, inside < 0.97 * whole)]
        if _all_visible([m for _, m, _ in candidate], style.least_visible):
            placed = candidate
    return placed


def _all_visible(masks: list[np.ndarray], least: float) -> bool:
    """Whether every mask keeps the share `least` uncovered by later masks, and no box overlaps the last one much."""
    newest = masks[-1] >= 128
    box = _voc_box(masks[-1])
    for position, mask in enumerate(masks[:-1]):
        if _box_iou(_voc_box(mask), box) > 0.45:
            return False
        below = mask >= 128
        on_top = newest.copy()
        for other in masks[position + 1 : -1]:
            on_top |= other >= 128
        if (below & ~on_top).sum() < least * below.sum():
            return False
    return True


def _box_iou(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """IoU of two boxes in inclusive pixels."""
    overlap_w, overlap_h = min(a[2], b[2]) - max(a[0], b[0]) + 1, min(a[3], b[3]) - max(a[1], b[1]) + 1
    if overlap_w <= 0 or overlap_h <= 0:
        return 0.0
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return overlap_w * overlap_h / (sum(areas) - overlap_w * overlap_h)


def _shape(
    name: str, height: int, width: int, style: SceneStyle, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray | None]:
    """A polygon [n, 2] in pixels for a class, and the polygon of its hole (rings only)."""
    turns = np.arange(48) / 48 * 2 * np.pi
    circle = np.stack((np.cos(turns), np.sin(turns)), axis=1)
    hole = None
    if name == "rectangle":
        outline = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]) * 0.9
    elif name == "triangle":
        outline = np.array([[rng.uniform(-0.35, 0.35), -1.0], [1.0, 0.9], [-1.0, 0.9]])
    elif name == "star":
        angles = np.arange(10) / 10 * 2 * np.pi - np.pi / 2
        radius = np.where(np.arange(10) % 2 == 0, 1.08, rng.uniform(0.4, 0.5))
        outline = np.stack((np.cos(angles), np.sin(angles)), axis=1) * radius[:, None]
    else:
        outline = circle
        hole = circle * rng.uniform(0.5, 0.68) if name == "ring" else None
    longest = style.largest * min(height, width)
    half = 0.5 * style.smallest * (longest / style.smallest) ** (rng.random() ** 0.9)
    narrow = 2.0 ** -(rng.random() ** 1.5 * (1.2 if name in ("rectangle", "triangle") else 0.7))
    angle = rng.uniform(-np.pi, np.pi)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    centre = np.array([rng.uniform(0.02, 0.98) * width, rng.uniform(0.02, 0.98) * height])
    transform = np.diag([half, max(half * narrow, 4.0)]) @ turn
    return outline @ transform + centre, None if hole is None else hole @ transform + centre


def _polygon_area(points: np.ndarray) -> float:
    """Signed area of a polygon [n, 2] (shoelace formula)."""
    x, y = points[:, 0], points[:, 1]
    return 0.5 * float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))


def _rasterise(size: tuple[int, int], outline: np.ndarray, hole: np.ndarray | None) -> np.ndarray:
    """Coverage of each pixel, uint8 0..255 [height, width]; pixel (x, y) spans x..x+1, y..y+1."""
    height, width = size
    fine = np.zeros((height * _SUPERSAMPLE, width * _SUPERSAMPLE), np.uint8)
    for points, value in ((outline, 255), (hole, 0)):
        if points is not None:
            # OpenCV puts integer coordinates on pixel centres, hence the half pixel
            fixed = np.rint((points * _SUPERSAMPLE - 0.5) * (1 << _SUBPIXEL_BITS)).astype(np.int32)
            cv2.fillPoly(fine, [fixed], value, lineType=cv2.LINE_8, shift=_SUBPIXEL_BITS)
    return cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA)


def _ground(height: int, width: int, style: SceneStyle, rng: np.random.Generator) -> np.ndarray:
    """Cluttered background without objects: float32 BGR [height, width, 3], 0..255."""
    base = _colour(rng.uniform(0, 180), rng.uniform(10, 140), rng.uniform(50, 210))
    grid = base + rng.normal(0, rng.uniform(4, 26), (int(rng.integers(2, 7)), int(rng.integers(2, 8)), 3))
    canvas = cv2.resize(grid.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(rng.integers(style.most_clutter + 1)):  # soft blobs: no crisp outline, so never an object
        blob = np.zeros((height, width), np.float32)
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        axes = (int(rng.integers(4, width // 4)), int(rng.integers(4, height // 4)))
        cv2.ellipse(blob, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1.0, -1)
        blob = cv2.GaussianBlur(blob, (0, 0), float(rng.uniform(3, 8)))[..., None]
        canvas += blob * rng.normal(0, 35, 3).astype(np.float32)
    for _ in range(rng.integers(style.most_clutter + 1)):  # lines and open arcs: outlines without an area
        colour = [float(v) for v in base + rng.normal(0, 55, 3)]
        thickness = int(rng.integers(1, 4))
        ends = [(int(rng.integers(-10, width + 10)), int(rng.integers(-10, height + 10))) for _ in range(2)]
        if rng.random() < 0.6:
            cv2.line(canvas, ends[0], ends[1], colour, thickness, cv2.LINE_AA)
        else:
            axes = (int(rng.integers(8, width // 2)), int(rng.integers(8, height // 2)))
            start = float(rng.uniform(0, 360))
            cv2.ellipse(canvas, ends[0], axes, 0, start, start + float(rng.uniform(30, 130)), colour, thickness)
    return np.clip(canvas, 0, 255)


def _colour(hue: float, saturation: float, value: float) -> np.ndarray:
    """HSV in OpenCV's 8-bit units to BGR, float64 [3], 0..255."""
    pixel = np.array([[[hue % 180, saturation, value]]]).astype(np.uint8)
    return cv2.cvtColor(pixel, cv2.COLOR_HSV2BGR)[0, 0].astype(np.float64)


def _paint(canvas: np.ndarray, name: str, mask: np.ndarray, style: SceneStyle, rng: np.random.Generator) -> None:
    """Paint one object into the canvas (in place): a colour that stands out, a texture, sometimes a dark rim."""
    alpha = (mask.astype(np.float32) / 255.0)[..., None]
    below = (canvas * alpha).sum(axis=(0, 1)) / alpha.sum()
    colour = below
    for _ in range(12):
        hue = rng.normal(_CLASS_HUES[name], 9) if rng.random() < style.hue_bias else rng.uniform(0, 180)
        colour = _colour(hue, rng.uniform(120, 255), rng.uniform(90, 255))
        if np.linalg.norm(colour - below) >= style.least_contrast:
            break
    fill = np.broadcast_to(colour.astype(np.float32), canvas.shape) + _texture(mask.shape, rng)[..., None]
    if rng.random() < 0.35:
        inner = cv2.erode(mask, np.ones((3, 3), np.uint8)).astype(np.float32)[..., None] / 255.0
        fill = fill * inner + fill * 0.45 * (1 - inner)
    canvas *= 1 - alpha
    canvas += np.clip(fill, 0, 255) * alpha


def _texture(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Brightness added to an object's colour, float32 [height, width]: flat, shaded, striped or speckled."""
    height, width = size
    ys, xs = np.mgrid[:height, :width].astype(np.float32)
    angle, kind = rng.uniform(0, 2 * np.pi), rng.random()
    along = xs * np.cos(angle) + ys * np.sin(angle)
    if kind < 0.35:
        texture = np.zeros(size)
    elif kind < 0.65:
        texture = (along - along.mean()) / max(height, width) * rng.uniform(20, 110)
    elif kind < 0.85:
        texture = np.sin(along * 2 * np.pi / rng.uniform(4, 12)) * rng.uniform(8, 30)
    else:
        coarse = rng.normal(0, rng.uniform(8, 22), (height // 3, width // 3)).astype(np.float32)
        texture = cv2.resize(coarse, (width, height))
    return texture.astype(np.float32)


def _photograph(canvas: np.ndarray, style: SceneStyle, rng: np.random.Generator) -> np.ndarray:
    """Light falling from one side, blur and noise; float32 to uint8, same shape."""
    height, width = canvas.shape[:2]
    ys, xs = np.mgrid[:height, :width].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    slope = (xs / width - 0.5) * np.cos(angle) + (ys / height - 0.5) * np.sin(angle)
    level = np.exp(rng.uniform(np.log(style.darkest), np.log(1.15)))
    light = level * (1 + slope * rng.uniform(0, 0.6))
    shot = canvas * light[..., None].astype(np.float32)
    blur = rng.uniform(0, style.most_blur)
    if blur > 0.2:
        shot = cv2.GaussianBlur(shot, (0, 0), blur)
    shot = shot + rng.normal(0, rng.uniform(0.5, 1.0) ** 2 * style.most_noise * min(level, 1.0), shot.shape)
    return np.clip(np.rint(shot), 0, 255).astype(np.uint8)
