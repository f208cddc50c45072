"""Checks annotated images against their files and rules: what comes out can be trained on as it is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from yolov6core.data.annotated import AnnotatedImage, AnnotatedObject, Box, Problem
from yolov6core.data.image_header import ImageError, read_image_header

_ROUNDING = 0.01  # pixels: what the decimals of a text format may put a box over the edge without being told


@dataclass(frozen=True)
class BoxRules:
    """Which objects stay.

    Args:
        classes: the class names that may occur; None allows all.
        keep_difficult: whether objects marked as difficult stay.
        min_box: shortest side of a box after clipping, pixels.
    """

    classes: frozenset[str] | None = None
    keep_difficult: bool = True
    min_box: float = 0.0


def check_images(images: Iterable[AnnotatedImage], rules: BoxRules) -> tuple[list[AnnotatedImage], list[Problem]]:
    """Check images and objects; unusable ones are left out and reported.

    Returns: the usable images with the size of their file and boxes inside it, and the problems found.
    """
    usable, problems = [], []
    for image in images:
        try:
            header = read_image_header(image.path)
        except (ImageError, OSError) as error:
            kind = "missing_image" if isinstance(error, FileNotFoundError) else "unreadable_image"
            problems.append(Problem(kind, image.path, str(error)))
            continue
        size = (header.height, header.width)
        if header.orientation != 1:
            problems.append(Problem("rotated_image", image.path, f"EXIF orientation {header.orientation}"))
        if image.size is not None and image.size != size:
            told, found = (f"{width}x{height}" for height, width in (image.size, size))
            problems.append(Problem("size_mismatch", image.path, f"annotation {told}, file {found}"))
        checked = replace(image, size=size)
        usable.append(replace(checked, objects=tuple(_check_objects(checked, rules, problems))))
    return usable, problems


def clip_box(box: Box, size: tuple[int, int]) -> Box:
    """The part of a box inside an image of (height, width); without an area where they do not meet."""
    height, width = size
    left, top = min(max(box[0], 0.0), width), min(max(box[1], 0.0), height)
    return left, top, max(min(box[2], float(width)), left), max(min(box[3], float(height)), top)


def remove_shared(
    train: Iterable[AnnotatedImage], val: Iterable[AnnotatedImage]
) -> tuple[list[AnnotatedImage], list[AnnotatedImage], list[Problem]]:
    """Make splits disjoint: an image of both stays in `val` only, one listed twice in a split stays once.

    Returns: the two splits sorted by path, and the problems found.
    """
    problems: list[Problem] = []
    splits: list[dict[str, AnnotatedImage]] = []
    for images in (train, val):
        kept: dict[str, AnnotatedImage] = {}
        for image in images:
            if image.path in kept:
                problems.append(Problem("duplicate_entry", image.path))
            kept.setdefault(image.path, image)
        splits.append(kept)
    shared = sorted(splits[0].keys() & splits[1].keys())
    problems += [Problem("in_both_splits", path) for path in shared]
    for path in shared:
        del splits[0][path]
    ordered = [[kept[path] for path in sorted(kept)] for kept in splits]
    return ordered[0], ordered[1], problems


def seeded_part(images: list[AnnotatedImage], count: int, seed: int) -> list[AnnotatedImage]:
    """`count` images chosen by a hash of seed and name: the choice hardly moves when other images come or go."""

    def key(image: AnnotatedImage) -> tuple[bytes, str]:
        return hashlib.sha256(f"{seed}/{image.stem}".encode()).digest(), image.path

    return sorted(images, key=key)[:count]


def _check_objects(image: AnnotatedImage, rules: BoxRules, problems: list[Problem]) -> list[AnnotatedObject]:
    kept: dict[AnnotatedObject, None] = {}
    height, width = image.size or (0, 0)
    for item in image.objects:
        if item.difficult and not rules.keep_difficult:
            continue
        fate = _box_problem(item, (height, width), rules)
        if fate is not None and fate != "clipped_box":
            problems.append(Problem(fate, image.path, f"{item.name} {_numbers(item.box)}"))
            continue
        if fate == "clipped_box":
            problems.append(Problem(fate, image.path, f"{item.name} {_numbers(item.box)} in {width}x{height}"))
        inside = clip_box(item.box, (height, width))
        if inside != item.box:
            item = replace(item, box=inside)
        if item in kept:
            problems.append(Problem("duplicate_box", image.path, f"{item.name} {_numbers(item.box)}"))
        kept[item] = None
    return list(kept)


def _box_problem(item: AnnotatedObject, size: tuple[int, int], rules: BoxRules) -> str | None:
    """The kind of problem of an object; None for a sound one. Only `clipped_box` can be mended."""
    if rules.classes is not None and item.name not in rules.classes:
        return "unknown_class"
    left, top, right, bottom = item.box
    if right <= left or bottom <= top:
        return "zero_area_box"
    if right <= 0 or bottom <= 0 or left >= size[1] or top >= size[0]:
        return "outside_box"
    inside = clip_box(item.box, size)
    if min(inside[2] - inside[0], inside[3] - inside[1]) < rules.min_box:
        return "tiny_box"
    moved = max(abs(a - b) for a, b in zip(inside, item.box, strict=True))
    return None if moved <= _ROUNDING else "clipped_box"


def _numbers(box: Box) -> str:
    return "(" + ", ".join(f"{value:g}" for value in box) + ")"
