"""Reads datasets labelled by text files of `class cx cy w h` rows, normalised by the image's size."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import PurePosixPath

from yolov6core.data.annotated import AnnotatedImage, AnnotatedObject, DatasetError, Problem, Source
from yolov6core.data.image_header import IMAGE_SUFFIXES, ImageError, read_image_header

_NAME_FILES = ("data.yaml", "dataset.yaml", "classes.txt", "obj.names")


def is_yolo(root: str) -> bool:
    """Whether `root` has folders of images and labels, in either order of nesting."""
    return os.path.isdir(f"{root}/labels") or any(
        os.path.isdir(f"{root}/{name}/labels") for name in (os.listdir(root) if os.path.isdir(root) else ())
    )


def read_yolo(root: str, *, train_split: Sequence[str] = ("train",), val_split: Sequence[str] = ("val",)) -> Source:
    """Read a dataset of label files.

    Images of a split lie in `images/<split>/` or `<split>/images/`, their labels in the folder of the same path with
    `labels` for `images`; without split folders, `images/` and `labels/` are read as a whole, to be split by chance.
    Class names come from `data.yaml` or `dataset.yaml` (`names`), `classes.txt` or `obj.names`.
    An image without a label file is left out: an empty file says that there is nothing in the picture.

    Returns: splits `train` and `val`, or `all`.

    Raises:
        DatasetError: no names, or no such split.
    """
    names = _class_names(root)
    problems: list[Problem] = []
    if _images_in(f"{root}/images"):
        return Source({"all": _read_folder(f"{root}/images", names, problems)}, problems, tuple(names))
    splits: dict[str, list[AnnotatedImage]] = {}
    for split, wanted in (("train", train_split), ("val", val_split)):
        splits[split] = []
        for name in wanted:
            places = (f"{root}/images/{name}", f"{root}/{name}/images")
            folder = next((place for place in places if os.path.isdir(place)), None)
            if folder is None:
                raise DatasetError(f"no folder for the split {name!r}: neither {places[0]} nor {places[1]}")
            splits[split] += _read_folder(folder, names, problems)
    return Source(splits, problems, tuple(names))


def _class_names(root: str) -> list[str]:
    for name in _NAME_FILES:
        path = f"{root}/{name}"
        if not os.path.isfile(path):
            continue
        if not name.endswith(".yaml"):
            with open(path, encoding="utf-8-sig") as file:
                return [row.strip() for row in file if row.strip()]
        names = _yaml_names(path)
        if isinstance(names, dict) and sorted(names) == list(range(len(names))):
            names = [names[index] for index in range(len(names))]
        if isinstance(names, list) and names:
            return [str(entry) for entry in names]
        raise DatasetError(f"{path}: 'names' must be a list of class names, or a mapping of 0, 1, ... to names")
    raise DatasetError(f"class names are missing: {root} has none of {', '.join(_NAME_FILES)}")


def _yaml_names(path: str) -> object:
    from ruamel.yaml import YAML, YAMLError

    try:
        with open(path, encoding="utf-8") as file:
            document = YAML(typ="safe", pure=True).load(file)
    except YAMLError as error:
        raise DatasetError(f"{path} is not valid YAML: {error}") from error
    return document.get("names") if isinstance(document, dict) else None


def _images_in(folder: str) -> list[str]:
    if not os.path.isdir(folder):
        return []
    return sorted(n for n in os.listdir(folder) if n.lower().endswith(IMAGE_SUFFIXES) and not n.startswith("."))


def _read_folder(folder: str, names: list[str], problems: list[Problem]) -> list[AnnotatedImage]:
    parts = folder.split("/")
    parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    labels = "/".join(parts)
    images = []
    for name in _images_in(folder):
        path, where = f"{folder}/{name}", f"{labels}/{PurePosixPath(name).stem}.txt"
        if not os.path.isfile(where):
            problems.append(Problem("missing_annotation", path, f"no {where}"))
            continue
        try:
            header = read_image_header(path)
        except ImageError as error:
            problems.append(Problem("unreadable_image", path, str(error)))
            continue
        with open(where, encoding="utf-8", errors="replace") as file:
            rows = file.read().splitlines()
        size = (header.height, header.width)
        images.append(AnnotatedImage(path, None, tuple(_objects(rows, names, size, where, problems))))
    return images


def _objects(
    rows: Sequence[str], names: list[str], size: tuple[int, int], where: str, problems: list[Problem]
) -> list[AnnotatedObject]:
    """Rows to objects in pixels of (height, width); rows of another form are reported."""
    height, width = size
    objects = []
    for number, row in enumerate(rows, start=1):
        if not row.strip():
            continue
        try:
            index, cx, cy, w, h = (float(value) for value in row.split())
        except ValueError:
            problems.append(Problem("broken_object", where, f"line {number}: 5 numbers are needed"))
            continue
        if not (all(map(math.isfinite, (index, cx, cy, w, h))) and index.is_integer() and 0 <= index < len(names)):
            problems.append(Problem("broken_object", where, f"line {number}: class {index:g} of {len(names)}"))
            continue
        corners = ((cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height)
        objects.append(AnnotatedObject(names[int(index)], corners))
    return objects
