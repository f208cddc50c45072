"""Reads datasets annotated in COCO's JSON: one file per split, or one file for all."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any, cast

from yolov6core.datasets.annotated import AnnotatedImage, AnnotatedObject, DatasetError, Problem, is_safe_name
from yolov6core.datasets.images import Images, ReadDataset


def is_coco(root: str) -> bool:
    """Whether `root` or its `annotations/` contains COCO files."""
    return bool(_json_files(root))


def read_coco(
    root: str, *, train_split: Sequence[str] = ("train",), val_split: Sequence[str] = ("val",)
) -> ReadDataset:
    """Read a COCO dataset.

    A split `train` is the file `instances_train.json` or `train.json`, in `annotations/` or in `root`. A single file is
    read as a whole, to be split at random. The `file_name` of an image is looked up in `root`, `images/`, `<split>/`
    and `images/<split>/`. Segmentations are not needed; regions marked `iscrowd` become crowds.

    Returns: splits `train` and `val`, or `all`.

    Raises:
        DatasetError: a file is missing or is not COCO's JSON.
    """
    files = _json_files(root)
    if not files:
        raise DatasetError(f"no COCO dataset in {root}: expected annotations/instances_<split>.json")
    problems: list[Problem] = []
    known: dict[str, None] = {}  # class names in order
    if len(files) == 1:
        [(name, path)] = files.items()
        return ReadDataset({"all": Images(_read_file(path, root, name, problems, known))}, problems, tuple(known))
    splits = {"train": Images(), "val": Images()}
    for split, names in (("train", train_split), ("val", val_split)):
        for name in names:
            if name not in files:
                raise DatasetError(f"no annotations/instances_{name}.json in {root}; there are: {', '.join(files)}")
            for image in _read_file(files[name], root, name, problems, known):
                splits[split].append(image)
    return ReadDataset(splits, problems, tuple(known))


def _json_files(root: str) -> dict[str, str]:
    """Split name -> path, sorted; COCO's other kinds of files (captions, keypoints) do not count."""
    found = {}
    for folder in (f"{root}/annotations", root):
        if os.path.isdir(folder) and not found:
            for name in sorted(os.listdir(folder)):
                stem, suffix = os.path.splitext(name)
                if suffix == ".json" and not stem.startswith(("captions", "person_keypoints", "stuff", "image_info")):
                    found[stem.removeprefix("instances_")] = f"{folder}/{name}"
    return found


def _read_file(
    path: str, root: str, split: str, problems: list[Problem], known: dict[str, None]
) -> Iterator[AnnotatedImage]:
    document = _load(path)
    names = {entry["id"]: str(entry["name"]) for entry in sorted(document["categories"], key=lambda e: e["id"])}
    known |= dict.fromkeys(names.values())
    objects: dict[Any, list[AnnotatedObject]] = {}
    for entry in document["annotations"]:
        item = _object(entry, names)
        if item is None:
            problems.append(Problem("broken_object", path, f"annotation id {entry.get('id')}"))
        else:
            objects.setdefault(entry.get("image_id"), []).append(item)
    for entry in document["images"]:
        file_name = str(entry["file_name"]).replace("\\", "/")
        if not is_safe_name(file_name):
            problems.append(Problem("unsafe_path", path, file_name))
            continue
        places = (root, f"{root}/images", f"{root}/{split}", f"{root}/images/{split}")
        found = next((f"{place}/{file_name}" for place in places if os.path.isfile(f"{place}/{file_name}")), None)
        if found is None:
            problems.append(Problem("missing_image", path, file_name))
            continue
        size = None
        if entry.get("height") and entry.get("width"):
            told = (entry["height"], entry["width"])
            # Files may hold any values here; the check compares them with the image file.
            size = cast(tuple[int, int], tuple(side if isinstance(side, int | float) else str(side) for side in told))
        yield AnnotatedImage(found, size, tuple(objects.get(entry["id"], ())))


def _load(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path} is not valid JSON: {error}") from error
    needed = {"images": ("id", "file_name"), "annotations": (), "categories": ("id", "name")}
    for key, fields in needed.items():
        entries = document.get(key) if isinstance(document, dict) else None
        sound = isinstance(entries, list) and all(isinstance(e, dict) and all(f in e for f in fields) for e in entries)
        if not sound:
            raise DatasetError(f"{path} is not a COCO file: it needs a list '{key}' of objects ({', '.join(fields)})")
    return document


def _object(entry: dict[str, Any], names: dict[Any, str]) -> AnnotatedObject | None:
    """An annotation with a known category and four finite numbers x, y, width, height; else None."""
    name, box = names.get(entry.get("category_id")), entry.get("bbox")
    if name is None or not isinstance(box, list) or len(box) != 4:
        return None
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in box):
        return None
    left, top, width, height = box
    return AnnotatedObject(name, (left, top, left + width, top + height), crowd=bool(entry.get("iscrowd")))
