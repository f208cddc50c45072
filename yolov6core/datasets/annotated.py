"""The parts of a dataset as readers give them: annotated images, their objects, and problems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from yolov6core.base.inputs import fits_a_line, printable

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in continuous pixels: the image spans 0..width and 0..height."""

PROBLEM_KINDS = {
    "duplicate_entry": "listed twice in a split, kept once",
    "in_both_splits": "listed for training and validation, kept for validation only",
    "missing_annotation": "listed or pictured, but not annotated; image left out",
    "broken_annotation": "annotation cannot be read, image left out",
    "missing_image": "annotated, but the image is not there; left out",
    "ambiguous_image": "several images have this name, the first one taken",
    "unreadable_image": "image cannot be read, left out",
    "undecodable_image": "image is damaged inside or of a kind that cannot be decoded, left out",
    "narrow_range": "16-bit picture that uses less than a sixteenth of its range: nearly one colour for the network",
    "size_mismatch": "annotation is for another image size of another shape, image left out",
    "size_unlike": "annotation tells another image size that does not matter for its boxes; the file's own size used",
    "scaled_image": "annotation is for another image size of the same shape, boxes scaled to the file's",
    "rotated_image": "the file asks viewers to turn it; boxes taken as for the turned picture",
    "turned_boxes": "the file asks viewers to turn it, the annotation is for the picture as stored; boxes turned too",
    "unsafe_path": "file name leaves the dataset's folder or holds control characters; image left out",
    "broken_link": "link to a file that is not there; DVC cannot go over it",
    "guessed_encoding": "text is not UTF-8 and declares no other encoding; read as the one that fits best",
    "bad_image_id": "image has no id of its own, so that boxes cannot be told apart; image left out",
    "mended_id": "image id is text in one place and a number in another; taken for the same",
    "merged_entry": "image listed twice in a file with objects of its own; objects of both kept",
    "orphan_annotation": "annotation of an image id that no image has, dropped",
    "repeated_class": "class name given twice; both are one class",
    "crowd_only": "class that has only crowd regions (iscrowd: 1): nothing of it is learnt or judged",
    "untrained_class": "class that only images of select or val have; nothing of it is learnt",
    "broken_object": "object without a name or a box of four numbers, dropped",
    "unknown_class": "class not in prepare.classes, box dropped",
    "zero_coordinate": "a coordinate is 0 in data counted from 1; is prepare.voc_origin 0 meant?",
    "swapped_corners": "left and right, or top and bottom of a box are swapped; put right",
    "clipped_box": "box reaches over the image's edge, clipped",
    "outside_box": "box lies outside the image, dropped",
    "zero_area_box": "box without an area, dropped",
    "tiny_box": "box smaller than prepare.min_box, dropped",
    "duplicate_box": "same class and box twice in an image, dropped once",
}
"""Every kind of problem, with the action that was taken."""


class DatasetError(ValueError):
    """The dataset has no usable data, or the request does not fit it; the message says how to mend it.

    Control characters of names are shown escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class AnnotatedObject(NamedTuple):
    """One object. A `crowd` is a region of many objects: evaluation ignores it, training does not see it."""

    name: str
    box: Box
    difficult: bool = False
    crowd: bool = False


class AnnotatedImage(NamedTuple):
    """An image file with its objects.

    Args:
        path: of the image file, with forward slashes.
        size: (height, width) in pixels. Before checking it is the size in the annotation, None if that has none.
        objects: in the order of the annotation.
    """

    path: str
    size: tuple[int, int] | None
    objects: tuple[AnnotatedObject, ...]

    @property
    def stem(self) -> str:
        """File name without folder and suffix; names the label file."""
        return stem_of(self.path)


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding: its kind (a key of PROBLEM_KINDS), the file concerned, and details."""

    kind: str
    where: str
    detail: str = ""

    def __post_init__(self) -> None:
        if self.kind not in PROBLEM_KINDS:
            raise ValueError(f"unknown kind of problem {self.kind!r}; known: {', '.join(PROBLEM_KINDS)}")


def stem_of(path: str) -> str:
    """File name without folder and suffix: PurePosixPath(path).stem in a tenth of the time."""
    name = path[path.rfind("/") + 1 :]
    dot = name.rfind(".")
    return name[:dot] if 0 < dot < len(name) - 1 else name


def is_safe_name(name: str) -> bool:
    """Whether a file name with forward slashes stays in its folder, and fits on one line of a list."""
    outside = name.startswith("/") or name[1:2] == ":" or ".." in name.split("/")
    return bool(name) and not outside and fits_a_line(name)


def count_problems(problems: Iterable[Problem]) -> dict[str, int]:
    """Number of problems of every kind, zeros included, in the order of PROBLEM_KINDS."""
    counts = Counter(problem.kind for problem in problems)
    return {kind: counts[kind] for kind in PROBLEM_KINDS}
