"""Reads datasets labelled by text files of `class cx cy w h` rows, normalised by the image's size."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence

from yolov6core.base.yaml_text import parse_yaml
from yolov6core.data.image_header import IMAGE_SUFFIXES, ImageError, read_image_header
from yolov6core.datasets.annotated import AnnotatedImage, AnnotatedObject, DatasetError, Problem, is_safe_name
from yolov6core.datasets.images import Images, ReadDataset

_NAME_FILES = ("data.yaml", "dataset.yaml", "classes.txt", "obj.names")


def is_yolo(root: str) -> bool:
    """Whether `root` has folders of images and labels, nested in either order."""
    return os.path.isdir(f"{root}/labels") or any(
        os.path.isdir(f"{root}/{name}/labels") for name in (os.listdir(root) if os.path.isdir(root) else ())
    )


def read_yolo(
    root: str, *, train_split: Sequence[str] = ("train",), val_split: Sequence[str] = ("val",)
) -> ReadDataset:
    """Read a dataset of label files.

    If `data.yaml` or `dataset.yaml` has the name of a split as a key (`train: images/train`), that entry names folders
    and lists of image paths; else the images lie in `images/<split>/` or `<split>/images/`. Without split folders,
    `images/` is read as a whole, to be split at random. The label file of an image has the same path with `labels` for
    the last `images`, or lies beside it. Class names come from the YAML file (`names`), `classes.txt` or `obj.names`.
    An image without a label file is left out; an empty label file means an image without objects.

    Returns: splits `train` and `val`, or `all`.

    Raises:
        DatasetError: class names or a split are missing, or a split lies outside `root`.
    """
    names, document = _describe(root)
    problems: list[Problem] = []
    wanted = {"train": train_split, "val": val_split}
    declared = {name: _entries(document[name]) for part in wanted.values() for name in part if document.get(name)}
    if not declared and _images_in(f"{root}/images"):
        wanted, declared = {"all": ("all",)}, {"all": ["images"]}
    elif declared and {*map(tuple, declared.values())} == {tuple(next(iter(declared.values())))} and len(declared) > 1:
        wanted, declared = {"all": ("all",)}, {"all": next(iter(declared.values()))}
    splits: dict[str, Images] = {}
    for split, parts in wanted.items():
        paths = [path for name in parts for path in _images_of_split(root, name, declared.get(name), document)]
        splits[split] = Images(_read_images(paths, names, problems))
    return ReadDataset(splits, problems, tuple(names))


def _describe(root: str) -> tuple[list[str], dict[str, object]]:
    """Class names, and the YAML file that contains them; the file is empty if they come from a list."""
    for name in _NAME_FILES:
        path = f"{root}/{name}"
        if not os.path.isfile(path):
            continue
        if not name.endswith(".yaml"):
            with open(path, encoding="utf-8-sig") as file:
                return [row.strip() for row in file if row.strip()], {}
        document = _load_yaml(path)
        names = document.get("names")
        if isinstance(names, dict) and sorted(names) == list(range(len(names))):
            names = [names[index] for index in range(len(names))]
        if isinstance(names, list) and names:
            return [str(entry) for entry in names], document
        raise DatasetError(f"{path}: 'names' must be a list of class names, or a mapping of 0, 1, ... to names")
    raise DatasetError(f"class names are missing: {root} has none of {', '.join(_NAME_FILES)}")


def _load_yaml(path: str) -> dict[str, object]:
    try:
        with open(path, encoding="utf-8") as file:
            document = parse_yaml(file.read())
    except ValueError as error:
        raise DatasetError(f"{path} is {error}") from error
    return document if isinstance(document, dict) else {}


def _entries(value: object) -> list[str]:
    """The places of a split in a YAML file: one or several."""
    return [str(entry).replace("\\", "/") for entry in (value if isinstance(value, list) else [value])]


def _images_of_split(root: str, name: str, entries: list[str] | None, document: dict[str, object]) -> list[str]:
    """Paths of the images of a split, from the places in the YAML file or by its name."""
    if entries is None:
        places = (f"{root}/images/{name}", f"{root}/{name}/images")
        folder = next((place for place in places if os.path.isdir(place)), None)
        if folder is None:
            raise DatasetError(f"no folder for the split {name!r}: neither {places[0]} nor {places[1]}")
        return _images_in(folder)
    paths = []
    for entry in entries:
        place = _locate(root, entry, str(document.get("path") or ""))
        if os.path.isdir(place):
            paths += _images_in(place)
            continue
        with open(place, encoding="utf-8-sig") as file:
            rows = [row.strip().replace("\\", "/") for row in file if row.strip()]
        paths += [_locate(root, row, str(document.get("path") or ""), must_exist=False) for row in rows]
    return paths


def _locate(root: str, entry: str, base: str, *, must_exist: bool = True) -> str:
    """A path of a YAML file or a list, looked up in the dataset's folder only.

    It starts at `root` or at the YAML file's `path` in it. Exporters write `../train/images` for a folder beside the
    file, or absolute paths of another machine: leading parts of these are dropped until the rest is found.
    """
    foreign = entry.startswith(("../", "/")) or entry[1:2] == ":"
    parts = [part for part in entry.split("/") if part not in ("", ".")]
    while parts and parts[0] == "..":
        parts = parts[1:]
    if ".." not in parts:
        for start in range(len(parts) if foreign else 1):
            for folder in (root, f"{root}/{base}" if is_safe_name(base) else root):
                place = "/".join([folder, *parts[start:]])
                if os.path.exists(place):
                    return place
    if must_exist or ".." in parts:
        raise DatasetError(f"{entry!r} is not in {root}; paths of data.yaml count from there and may not leave it")
    return "/".join([root, *parts])


def _images_in(folder: str) -> list[str]:
    """Paths of the images in a folder, sorted."""
    if not os.path.isdir(folder):
        return []
    names = (n for n in os.listdir(folder) if n.lower().endswith(IMAGE_SUFFIXES) and not n.startswith("."))
    return [f"{folder}/{name}" for name in sorted(names)]


def _label_path(path: str) -> str:
    parts = path.rpartition(".")[0].split("/")
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return "/".join(parts) + ".txt"


def _read_images(paths: Iterable[str], names: list[str], problems: list[Problem]) -> Iterator[AnnotatedImage]:
    for path in paths:
        where = _label_path(path)
        if not os.path.isfile(where):
            problems.append(Problem("missing_annotation", path, f"no {where}"))
            continue
        try:
            header = read_image_header(path)
        except (ImageError, OSError) as error:
            kind = "missing_image" if isinstance(error, FileNotFoundError) else "unreadable_image"
            problems.append(Problem(kind, path, str(error)))
            continue
        with open(where, encoding="utf-8", errors="replace") as file:
            rows = file.read().splitlines()
        size = (header.height, header.width)
        yield AnnotatedImage(path, None, tuple(_objects(rows, names, size, where, problems)))


def _objects(
    rows: Sequence[str], names: list[str], size: tuple[int, int], where: str, problems: list[Problem]
) -> list[AnnotatedObject]:
    """Rows to objects in pixels of (height, width); outlines become their bounds, other rows are reported."""
    height, width = size
    objects = []
    for number, row in enumerate(rows, start=1):
        if not row.strip():
            continue
        try:
            index, *place = (float(value) for value in row.split())
        except ValueError:
            index, place = math.nan, []
        if len(place) != 4 and (len(place) < 6 or len(place) % 2):
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
