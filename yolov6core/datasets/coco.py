"""Reads datasets annotated in COCO's JSON: one file per split, or one file for all."""

from __future__ import annotations

import json
import math
import mmap
import os
from collections.abc import Iterator, Sequence
from typing import Any, cast

from yolov6core.base.inputs import MAX_DOCUMENT, decode_text, open_input, read_bytes
from yolov6core.base.progress import tracked
from yolov6core.datasets.annotated import AnnotatedImage, AnnotatedObject, DatasetError, Problem
from yolov6core.datasets.coco_ids import IdTable, category_names
from yolov6core.datasets.images import Images, ReadDataset
from yolov6core.datasets.places import Places
from yolov6core.datasets.reading import in_words, is_whole, looks_like_split, needed, same_names

_OTHERS = ("captions", "person_keypoints", "stuff", "image_info")
_KEYS = (b'"images"', b'"annotations"', b'"categories"')
_NO_CROWD = (None, 0, "", "0", "false", "False")
_HEAD = 1 << 12


def is_coco(root: str) -> bool:
    """Whether `root`, its `annotations/` or the folders of its splits contain COCO files."""
    return bool(coco_files(root))


def read_coco(
    root: str, *, train_split: Sequence[str] = ("train",), val_split: Sequence[str] = ("val",)
) -> ReadDataset:
    """Read a COCO dataset.

    A split `train` is the file `instances_train.json` or `train.json`, in `annotations/` or in `root`, or the COCO file
    in the folder `train/`. A single file is read as a whole, to be split at random, and so is the same file for both
    splits. The `file_name` of an image is looked up in `root`, `images/`, `data/`, `<split>/`, `images/<split>/` and
    beside the file, then by name in the whole dataset. Segmentations are not needed; regions marked `iscrowd` become
    crowds.

    Returns: splits `train` and `val`, or `all`.

    Raises:
        DatasetError: a file is missing or is not COCO's JSON.
    """
    files = coco_files(root) or _json_files(root)
    if not files:
        raise DatasetError(f"no COCO dataset in {root}: expected annotations/instances_<split>.json")
    problems: list[Problem] = []
    known: dict[str, None] = {}  # class names in order
    asked = {"train": list(train_split), "val": list(val_split)}
    if is_whole(list(files)) or (same_names(train_split, val_split) and all(name in files for name in train_split)):
        asked = {"all": list(files) if is_whole(list(files)) else list(dict.fromkeys(train_split))}
    splits = {split: Images() for split in asked}
    for split, names in asked.items():
        for name in names:
            if name not in files:
                raise DatasetError(
                    f"no annotations/instances_{name}.json in {root}; there are: {', '.join(files)}. "
                    "Set prepare.train_split and prepare.val_split to names among these"
                )
            for image in _read_file(files[name], root, name, problems, known):
                splits[split].append(image)
    return ReadDataset(splits, problems, tuple(known))


def coco_files(root: str) -> dict[str, str]:
    """Split name -> path of the files that hold images, annotations and categories, sorted."""
    return {name: path for name, path in _json_files(root).items() if _looks_like_coco(path)}


def count_entries(path: str) -> int:
    """About how many images a COCO file lists, without parsing it."""
    return _scan(path, lambda view: _occurrences(view, b'"file_name"'))


def _occurrences(view: mmap.mmap, text: bytes) -> int:
    count, place = 0, view.find(text)
    while place >= 0:
        count, place = count + 1, view.find(text, place + 1)
    return count


def _looks_like_coco(path: str) -> bool:
    """By its keys; files in wide encodings are looked at without their null bytes."""

    def look(view: mmap.mmap) -> int:
        head = view[:_HEAD].replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n")
        if not head.startswith(b"{"):
            return 0
        if b"\0" in view[:_HEAD]:
            text = view[:].replace(b"\0", b"")
            return int(all(key in text for key in _KEYS))
        return int(all(view.find(key) >= 0 for key in _KEYS))

    return bool(_scan(path, look))


def _scan(path: str, look: Any) -> int:
    try:
        descriptor = open_input(path, limit=MAX_DOCUMENT)
    except (OSError, ValueError):
        return 0
    try:
        if not os.fstat(descriptor).st_size:
            return 0
        with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as view:
            return look(view)
    finally:
        os.close(descriptor)


def _json_files(root: str) -> dict[str, str]:
    """Split name -> path; COCO's other kinds of files (captions, keypoints) and hidden ones do not count."""
    for folder in (f"{root}/annotations", root):
        found = {name.removeprefix("instances_"): path for name, path in _json_in(folder).items()}
        coco = {name: path for name, path in found.items() if _looks_like_coco(path)}
        if coco or (found and folder != root):
            return coco or found
    for part in sorted(os.listdir(root)) if os.path.isdir(root) else ():
        inside = _json_in(f"{root}/{part}") if part[0] != "." else {}
        coco = [path for path in inside.values() if _looks_like_coco(path)]
        if len(coco) == 1 and (looks_like_split(part) or "_annotations.coco" in inside or "labels" in inside):
            found[part] = coco[0]
    return found


def _json_in(folder: str) -> dict[str, str]:
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    stems = {os.path.splitext(name)[0]: name for name in names if name[0] != "." and name.endswith(".json")}
    return {stem: f"{folder}/{name}" for stem, name in stems.items() if not stem.startswith(_OTHERS)}


def _read_file(
    path: str, root: str, split: str, problems: list[Problem], known: dict[str, None]
) -> Iterator[AnnotatedImage]:
    document = _load(path, problems)
    names = category_names(document["categories"], path, problems)
    known |= dict.fromkeys(names.values())
    beside = os.path.dirname(path)
    parts = ("", "/images", "/data", f"/{split}", f"/images/{split}")
    places = Places(root, [*(root + part for part in parts), beside, f"{beside}/images", f"{beside}/data"])
    ids = IdTable(document["images"], path, problems)
    objects: dict[int, list[AnnotatedObject]] = {}  # by the place of the image
    for entry in document["annotations"]:
        item = _object(entry, names) if isinstance(entry, dict) else None
        if item is None:
            told = entry.get("id") if isinstance(entry, dict) else entry
            problems.append(Problem("broken_object", path, f"annotation id {told}"[:200]))
            continue
        place = ids.place_of(entry.get("image_id"), entry.get("id"))
        if place is not None:
            objects.setdefault(place, []).append(item)
    for place, entry in tracked(ids.usable(), "reading annotations", total=len(document["images"])):
        file_name = str(entry["file_name"]).replace("\\", "/")
        if not places.is_safe(file_name):
            problems.append(Problem("unsafe_path", path, file_name))
            continue
        found = places.find(file_name)
        if found is None:
            problems.append(Problem("missing_image", path, file_name))
            continue
        size = None
        if entry.get("height") and entry.get("width"):
            told = (entry["height"], entry["width"])
            # Files may hold any values here; the check compares them with the image file.
            size = cast(tuple[int, int], tuple(side if isinstance(side, int | float) else str(side) for side in told))
        yield AnnotatedImage(found, size, tuple(item for one in ids.same_file(place) for item in objects.get(one, ())))


def _load(path: str, problems: list[Problem]) -> dict[str, Any]:
    text, guess = needed(lambda: decode_text(read_bytes(path, limit=MAX_DOCUMENT), where=path), path)
    if guess is not None:
        problems.append(Problem("guessed_encoding", path, guess))
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path} is not valid JSON: {in_words(error)}") from error
    needs = {"images": ("id", "file_name"), "annotations": (), "categories": ("id", "name")}
    for key, fields in needs.items():
        entries = document.get(key) if isinstance(document, dict) else None
        plain = isinstance(entries, list) and (key == "annotations" or all(isinstance(e, dict) for e in entries))
        if not plain or not all(field in entry for entry in entries or () for field in fields):
            raise DatasetError(f"{path} is not a COCO file: it needs a list '{key}' of objects ({', '.join(fields)})")
    return document


def _object(entry: dict[str, Any], names: dict[Any, str]) -> AnnotatedObject | None:
    """An annotation with a known category and four finite numbers x, y, width, height; else None."""
    category, box = entry.get("category_id"), entry.get("bbox")
    name = names.get(category) if isinstance(category, int | float | str) else None
    if name is None or not isinstance(box, list) or len(box) != 4:
        return None
    if not all(isinstance(value, int | float) and abs(value) < 1e12 and math.isfinite(value) for value in box):
        return None
    left, top, width, height = box
    return AnnotatedObject(name, (left, top, left + width, top + height), crowd=entry.get("iscrowd") not in _NO_CROWD)
