"""Checks annotated images against their files and rules; the result is ready for training."""

from __future__ import annotations

import math
from dataclasses import dataclass

from yolov6core.base.inputs import fits_a_line
from yolov6core.base.progress import working
from yolov6core.data.image_header import ImageHeader, read_image_header
from yolov6core.datasets.annotated import AnnotatedImage, AnnotatedObject, Box, Problem
from yolov6core.datasets.images import Images

_ROUNDING = 0.01  # pixels: decimals of a text format may put a box over the edge by this much without a report


@dataclass(frozen=True)
class BoxRules:
    """Rules for the objects that stay.

    Args:
        classes: the class names that may occur; None allows all.
        keep_difficult: whether objects marked as difficult stay.
        min_box: shortest allowed side of a box after clipping, pixels.
    """

    classes: frozenset[str] | None = None
    keep_difficult: bool = True
    min_box: float = 0.0


def check_images(images: Images, rules: BoxRules) -> tuple[Images, list[Problem]]:
    """Check images and objects; unusable ones are left out and reported.

    Returns: the usable images with the size of their file and boxes inside it, and the problems found.
    """
    problems: list[Problem] = []
    with working("checking images", total=len(images)) as bar:

        def check(image: AnnotatedImage) -> AnnotatedImage | None:
            bar.add()
            return _check_image(image, rules, problems)

        return images.revised(check), problems


def _check_image(image: AnnotatedImage, rules: BoxRules, problems: list[Problem]) -> AnnotatedImage | None:
    """The same image if it has no problem, None if it cannot be used."""
    if not fits_a_line(image.path):  # a line break would make two entries of a list
        problems.append(Problem("unsafe_path", image.path))
        return None
    try:
        header = read_image_header(image.path)
    except Exception as error:  # whatever a decoder raises for damaged bytes
        kind = "missing_image" if isinstance(error, FileNotFoundError) else "unreadable_image"
        problems.append(Problem(kind, image.path, str(error)))
        return None
    if header.orientation != 1:
        image = _turn(image, header, problems)
    size = (header.height, header.width)
    if image.size is not None and image.size != size:
        fitted = _fit_to_size(image, size, problems)
        if fitted is None:
            return None
        image = fitted
    objects = _check_objects(image, size, rules, problems)
    sound = image.size == size and objects is image.objects
    return image if sound else AnnotatedImage(image.path, size, objects)


def _fit_to_size(image: AnnotatedImage, size: tuple[int, int], problems: list[Problem]) -> AnnotatedImage | None:
    """The image with boxes for the file's size; None where the annotation is for a picture of another shape."""
    assert image.size is not None
    told = _numbers_of(image.size)
    shown = f"annotation {image.size[1]}x{image.size[0]}, file {size[1]}x{size[0]}"
    if told is None or max(abs(a - b) for a, b in zip(told, size, strict=True)) <= 1 or _sides_swapped(image, size):
        problems.append(Problem("size_unlike", image.path, shown))
        return image
    down, across = size[0] / told[0], size[1] / told[1]
    # half a pixel: a side was rounded when the picture was scaled
    if abs(told[0] * across - size[0]) > 0.5 + across and abs(told[1] * down - size[1]) > 0.5 + down:
        problems.append(Problem("size_mismatch", image.path, shown))
        return None
    problems.append(Problem("scaled_image", image.path, shown))
    factors = (across, down, across, down)
    objects = (
        item._replace(box=tuple(value * factor for value, factor in zip(item.box, factors, strict=True)))
        for item in image.objects
    )
    return AnnotatedImage(image.path, size, tuple(objects))


def _numbers_of(size: tuple[object, object]) -> tuple[float, float] | None:
    """(height, width) in an annotation as numbers; None for what is none, or not above 0."""
    try:
        height, width = (float(str(side)) for side in size)
    except ValueError:
        return None
    return (height, width) if 0 < height < math.inf and 0 < width < math.inf else None


def _sides_swapped(image: AnnotatedImage, size: tuple[int, int]) -> bool:
    """Whether height and width are told in each other's place: the boxes fit the file, but not the told size."""
    told = image.size
    if told is None or told != (size[1], size[0]):
        return False
    return all(_inside(item.box, size) for item in image.objects) and not all(
        _inside(item.box, told) for item in image.objects
    )


def _turn(image: AnnotatedImage, header: ImageHeader, problems: list[Problem]) -> AnnotatedImage:
    """Report a picture with an EXIF orientation; turn its boxes if the annotation is for the stored picture."""
    stored = (header.width, header.height)
    if header.orientation < 5 or image.size != stored or header.width == header.height:
        problems.append(Problem("rotated_image", image.path, f"EXIF orientation {header.orientation}"))
        return image
    problems.append(Problem("turned_boxes", image.path, f"EXIF orientation {header.orientation}"))
    objects = tuple(item._replace(box=turn_box(item.box, header.orientation, stored)) for item in image.objects)
    return AnnotatedImage(image.path, (header.height, header.width), objects)


def turn_box(box: Box, orientation: int, stored: tuple[int, int]) -> Box:
    """A box on the stored picture of (height, width) to a box on the picture turned by EXIF's `orientation`, 5 to 8."""
    height, width = stored
    left, top, right, bottom = box
    if orientation in (7, 8):
        left, right = width - right, width - left
    if orientation in (6, 7):
        top, bottom = height - bottom, height - top
    return top, left, bottom, right


def clip_box(box: Box, size: tuple[int, int]) -> Box:
    """The part of a box inside an image of (height, width); its area is 0 where they do not meet."""
    height, width = size
    left, top = min(max(box[0], 0.0), width), min(max(box[1], 0.0), height)
    return left, top, max(min(box[2], float(width)), left), max(min(box[3], float(height)), top)


def _check_objects(
    image: AnnotatedImage, size: tuple[int, int], rules: BoxRules, problems: list[Problem]
) -> tuple[AnnotatedObject, ...]:
    """The usable objects; the image's own tuple if none has a problem."""
    kept: dict[AnnotatedObject, None] = {}
    height, width = size
    for item in image.objects:
        if item.difficult and not rules.keep_difficult:
            continue
        left, top, right, bottom = item.box
        if right < left or bottom < top:
            problems.append(Problem("swapped_corners", image.path, f"{item.name} {_numbers(item.box)}"))
            item = item._replace(box=(min(left, right), min(top, bottom), max(left, right), max(top, bottom)))
        fate = _box_problem(item, size, rules)
        if fate is not None and fate != "clipped_box":
            problems.append(Problem(fate, image.path, f"{item.name} {_numbers(item.box)}"))
            continue
        if fate == "clipped_box":
            problems.append(Problem(fate, image.path, f"{item.name} {_numbers(item.box)} in {width}x{height}"))
        if not _inside(item.box, size):
            item = item._replace(box=clip_box(item.box, size))
        if item in kept:
            problems.append(Problem("duplicate_box", image.path, f"{item.name} {_numbers(item.box)}"))
        kept[item] = None
    found = tuple(kept)
    return image.objects if found == image.objects else found


def _inside(box: Box, size: tuple[int, int]) -> bool:
    return box[0] >= 0 and box[1] >= 0 and box[2] <= size[1] and box[3] <= size[0]


def _box_problem(item: AnnotatedObject, size: tuple[int, int], rules: BoxRules) -> str | None:
    """The kind of problem of an object; None for a sound one. Only `clipped_box` can be mended."""
    if rules.classes is not None and item.name not in rules.classes:
        return "unknown_class"
    left, top, right, bottom = item.box
    if right <= left or bottom <= top:
        return "zero_area_box"
    if _inside(item.box, size):
        return "tiny_box" if min(right - left, bottom - top) < rules.min_box else None
    if right <= 0 or bottom <= 0 or left >= size[1] or top >= size[0]:
        return "outside_box"
    inside = clip_box(item.box, size)
    if min(inside[2] - inside[0], inside[3] - inside[1]) < rules.min_box:
        return "tiny_box"
    moved = max(abs(a - b) for a, b in zip(inside, item.box, strict=True))
    return None if moved <= _ROUNDING else "clipped_box"


def _numbers(box: Box) -> str:
    return "(" + ", ".join(f"{value:g}" for value in box) + ")"
