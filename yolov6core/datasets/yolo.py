"""Reads datasets labelled by text files of `class cx cy w h` rows, normalised by the image's size."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterable, Iterator, Sequence

from yolov6core.base.inputs import read_text
from yolov6core.base.progress import tracked
from yolov6core.data.files import Files, list_files
from yolov6core.data.image_header import IMAGE_SUFFIXES, read_image_header
from yolov6core.datasets.annotated import AnnotatedImage, AnnotatedObject, Problem
from yolov6core.datasets.images import Images, ReadDataset
from yolov6core.datasets.reading import attempt, looks_like_split
from yolov6core.datasets.yolo_places import YoloDescription, describe, label_folders, split_images

MAX_LABELS = 2**26
"""Bytes of the largest label file."""
_NO_LABELS = ("classes", "obj", "notes", "readme", "labels", "predefined_classes", "requirements", "all")


def is_yolo(root: str) -> bool:
    """Whether `root` has a folder of labels, or darknet's files."""
    return os.path.isdir(root) and (
        bool(label_folders(root)) or any(os.path.isfile(f"{root}/{name}") for name in ("obj.data", "obj.names"))
    )


def read_yolo(
    root: str, *, train_split: Sequence[str] = ("train",), val_split: Sequence[str] = ("val",)
) -> ReadDataset:
    """Read a dataset of label files.

    If `data.yaml`, `dataset.yaml` or `obj.data` has the name of a split as a key (`train: images/train`), that entry
    names folders and lists of image paths; else the images lie in `images/<split>/` or `<split>/images/`, or in a list
    `<split>.txt`. Without any of these, `images/` is read as a whole, to be split at random. The label file of an image
    has the same path with `labels` for the last `images`, or lies beside it. Class names come from the YAML file
    (`names`), `classes.txt` or `obj.names`. An image without a label file is left out; an empty label file means an
    image without objects.

    Returns: splits `train` and `val`, or `all`.

    Raises:
        DatasetError: class names or a split are missing, or a split lies outside `root`.
    """
    problems: list[Problem] = []
    told = describe(root, problems)
    labels = Labels(root)
    asked = {"train": train_split, "val": val_split}
    splits = {
        split: Images(_read_images(paths, labels, told, problems))
        for split, paths in split_images(root, asked, told, problems).items()
    }
    problems += [Problem("missing_image", path, "a label file without image") for path in labels.without_image()]
    return ReadDataset(splits, problems, tuple(dict.fromkeys(told.names)))


class Labels:
    """The label files of a dataset, and which of them were used."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._used: dict[str, set[str]] = {}  # folder -> names of files

    def of(self, path: str) -> str | None:
        """The label file of an image; None if there is none."""
        swapped, beside = label_path(path), path.rpartition(".")[0] + ".txt"
        found = next((place for place in (swapped, beside) if os.path.lexists(place)), None)
        if found is None:
            alike = self._by_name.alike(path[len(self._root) + 1 :].rpartition(".")[0])
            found = self._by_name.paths(alike[0])[0] if len(alike) == 1 else None
        if found is not None:
            folder, _, name = found.rpartition("/")
            self._used.setdefault(folder, set()).add(name)
        return found

    def without_image(self) -> Iterator[str]:
        """Label files in the folders that were used, without an image."""
        for folder, used in sorted(self._used.items()):
            for name in sorted(os.listdir(folder)):
                stem, suffix = os.path.splitext(name)
                other = name in used or suffix != ".txt" or name[0] == "." or stem.lower() in _NO_LABELS
                if not other and not looks_like_split(stem) and not self._has_image(f"{folder}/{stem}"):
                    yield f"{folder}/{name}"

    def _has_image(self, stem: str) -> bool:
        parts = stem.split("/")
        if "labels" in parts:
            parts[len(parts) - 1 - parts[::-1].index("labels")] = "images"
        ends = {*IMAGE_SUFFIXES, *(suffix.upper() for suffix in IMAGE_SUFFIXES)}
        return any(os.path.exists(place + end) for place in (stem, "/".join(parts)) for end in ends)

    @functools.cached_property
    def _by_name(self) -> Files:
        """Where labels or images lie in folders of other names: those of the folder `labels`, or of the dataset."""
        folders = label_folders(self._root)
        if len(folders) > 1:
            return Files(self._root, {})
        return list_files(folders[0] if folders else self._root, (".txt",), deep=True, skip=("ImageSets",))


def label_path(path: str) -> str:
    """The path of an image with `labels` for the last `images`, and `.txt`."""
    parts = path.rpartition(".")[0].split("/")
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return "/".join(parts) + ".txt"


def _read_images(
    paths: Iterable[str], labels: Labels, told: YoloDescription, problems: list[Problem]
) -> Iterator[AnnotatedImage]:
    for path in tracked(paths, "reading labels"):
        where = labels.of(path)
        if where is None:
            problems.append(Problem("missing_annotation", path, f"no {label_path(path)}"))
            continue
        try:
            header = read_image_header(path)
        except Exception as error:  # whatever a decoder raises for damaged bytes
            kind = "missing_image" if isinstance(error, FileNotFoundError) else "unreadable_image"
            problems.append(Problem(kind, path, str(error)))
            continue
        read = attempt(lambda where=where: read_text(where, limit=MAX_LABELS), where, problems)
        if read is None:
            continue
        if read[1] is not None:
            problems.append(Problem("guessed_encoding", where, read[1]))
        size = (header.height, header.width)
        yield AnnotatedImage(path, None, tuple(_objects(read[0].splitlines(), told, size, where, problems)))


def _objects(
    rows: Sequence[str], told: YoloDescription, size: tuple[int, int], where: str, problems: list[Problem]
) -> list[AnnotatedObject]:
    """Rows to objects in pixels of (height, width).

    Of outlines the bounds count, of rows with key points the box; other rows are reported.
    """
    height, width = size
    names, with_points = told.names, told.box_only()
    objects = []
    for number, row in enumerate(rows, start=1):
        if not row.strip():
            continue
        try:
            index, *place = (float(value) for value in row.split())
        except ValueError:
            index, place = math.nan, []
        if with_points is not None and len(place) == with_points:
            place = place[:4]
        if len(place) != 4 and (len(place) < 6 or len(place) % 2 or with_points is not None):
            problems.append(Problem("broken_object", where, f"line {number}: 5 numbers are needed"))
            continue
        if not (all(map(math.isfinite, (index, *place))) and index.is_integer() and 0 <= index < len(names)):
            problems.append(Problem("broken_object", where, f"line {number}: class {index:g} of {len(names)}"))
            continue
        if len(place) == 4:
            cx, cy, w, h = place
            corners = ((cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height)
        else:
            xs, ys = place[::2], place[1::2]
            corners = (min(xs) * width, min(ys) * height, max(xs) * width, max(ys) * height)
        objects.append(AnnotatedObject(names[int(index)], corners))
    return objects
