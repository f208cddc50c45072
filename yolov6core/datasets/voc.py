"""Reads datasets in the layout of Pascal VOC: one XML file per image, and lists of image names.

The layout is `Annotations/`, `JPEGImages/` and `ImageSets/Main/`, as in the development kit. Its yearly folders may lie
side by side. Lists may be missing, folders may have sub-folders and other names, and XML files may lie beside the
images, as drawing tools leave them.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

from yolov6core.base.errors import logger
from yolov6core.base.inputs import read_bytes
from yolov6core.base.progress import tracked
from yolov6core.data.image_header import IMAGE_SUFFIXES
from yolov6core.datasets.annotated import AnnotatedImage, DatasetError, Problem
from yolov6core.datasets.images import Images, ReadDataset
from yolov6core.datasets.reading import attempt, is_whole, looks_like_split, missing_split, same_names, text_of
from yolov6core.datasets.voc_tree import VocFolder, find_voc, places_of, tree_roots
from yolov6core.datasets.voc_xml import AnnotationError, VocAnnotation, parse_voc, voc_box

__all__ = ["AnnotationError", "VocAnnotation", "VocFolder", "find_voc", "is_voc", "parse_voc", "read_list", "read_voc",
           "voc_box"]  # fmt: skip

MAX_XML = 2**27  # bytes
Parts = dict[str, list[tuple[VocFolder, list[str]]]]


def read_voc(
    root: str, *, train_split: Sequence[str] = ("train",), val_split: Sequence[str] = ("val",), origin: int = 1
) -> ReadDataset:
    """Read a VOC dataset.

    Args:
        root: a VOC tree, or a folder of several (`VOCdevkit` with `VOC2007`, `VOC2012`).
        train_split: names of lists in `ImageSets/Main`; `VOC2007/trainval` means the list of that tree alone. Without
            lists they are names of trees, or of folders below `Annotations` or `JPEGImages`.
        val_split: the same for validation.
        origin: see `voc_box`.

    Returns: splits `train` and `val`, or `all`: where nothing is named like a split, where there is one list only, or
        where both splits are asked from the same lists. Sizes come from the annotations.

    Raises:
        DatasetError: no VOC tree, a missing split while there are others, or no XML file with an image.
    """
    folders = find_voc(root)
    problems: list[Problem] = []
    wanted = _wanted(root, folders, {"train": train_split, "val": val_split}, problems)
    splits = {}
    for split, parts in wanted.items():
        splits[split] = Images(
            image for folder, names in parts for image in _read_images(folder, names, origin, problems)
        )
    if not any(splits.values()) and any(problem.kind == "missing_image" for problem in problems):
        seen, pictured = (", ".join(places_of(files) for files in part) for part in (
            [folder.annotations for folder in folders], [folder.images for folder in folders]))  # fmt: skip
        raise DatasetError(
            f"no XML file in {root} has its image: XML files were seen in {seen}, images in {pictured}; "
            "an image needs the name of its XML file"
        )
    return ReadDataset(splits=splits, problems=problems)


def is_voc(root: str) -> bool:
    """Whether `root` is or contains a VOC tree."""
    return os.path.isdir(root) and bool(tree_roots(root))


def _wanted(root: str, folders: list[VocFolder], asked: Mapping[str, Sequence[str]], problems: list[Problem]) -> Parts:
    """The names to read, by split."""
    lists = sorted({name for folder in folders for name in folder.lists})
    names = [name for part in asked.values() for name in part]
    if is_whole(lists) and not all(name.rpartition("/")[2] in lists for name in names):
        asked, names = dict.fromkeys(asked, lists), lists
    if same_names(asked["train"], asked["val"]):
        logger.info("one list for both splits of %s (%s): it is split by chance", root, ", ".join(names))
        asked = {"all": list(dict.fromkeys(names))}
    if lists:
        found = {split: [one for name in part for one in _lists(folders, name)] for split, part in asked.items()}
        return {split: [(f, _read_list(f, path, problems)) for f, path in part] for split, part in found.items()}
    by_part = _by_part(folders, names)
    if all(name in by_part for name in names):
        return {split: [one for name in part for one in by_part[name]] for split, part in asked.items()}
    known = [name for name in by_part if looks_like_split(name) and name != os.path.basename(root)]
    if known and not is_whole(known):
        raise missing_split((name for name in names if name not in by_part), known, root)
    return {"all": [(folder, folder.stems()) for folder in folders]}


def _by_part(folders: list[VocFolder], names: Sequence[str]) -> Parts:
    """Name of a tree, or of a folder in it that may be a split -> the names in it."""
    by_part: Parts = {}
    for folder in folders:
        stems = folder.stems()
        own_name = os.path.basename(folder.root)
        by_part.setdefault(own_name, []).append((folder, stems))
        parts: dict[str, list[str]] = {}
        for stem in stems:
            places = {stem, *folder.images_of(stem)}
            inside = {part for place in places for part in place.split("/")[:-1]}
            for name in inside - {own_name}:
                if name in names or looks_like_split(name):
                    parts.setdefault(name, []).append(stem)
        for name, own in parts.items():
            by_part.setdefault(name, []).append((folder, own))
    return by_part


def read_list(text: str, known: Container[str] = ()) -> tuple[list[str], list[str]]:
    """Names in a split list, and the repeated ones.

    A row is a name, or a name and a flag as in VOC's lists per class; rows flagged -1 (class absent) are left out. A
    row that is a `known` name is taken whole, so names may contain spaces. Of an image and its XML file in one row, the
    image counts.
    """
    names: dict[str, None] = {}
    repeated = []
    for row in text.splitlines():
        name = row.strip().replace("\\", "/")
        parts = name.rsplit(maxsplit=1)
        if name not in known and len(parts) == 2 and (parts[1] in ("-1", "0", "1") or parts[1].endswith(".xml")):
            if parts[1] == "-1":
                continue
            name = parts[0]
        stem, suffix = os.path.splitext(name)
        if name not in known and suffix.lower() in IMAGE_SUFFIXES:
            name = stem
        if name in names:
            repeated.append(name)
        elif name:
            names[name] = None
    return list(names), repeated


def _lists(folders: list[VocFolder], name: str) -> list[tuple[VocFolder, str]]:
    """The lists that a split name means, with their trees."""
    tree, _, split = name.rpartition("/")
    found = [
        (folder, folder.lists[split])
        for folder in folders
        if split in folder.lists and (not tree or os.path.basename(folder.root) == tree)
    ]
    if not found:
        known = sorted({split for folder in folders for split in folder.lists})
        raise DatasetError(
            f"no list ImageSets/Main/{split}.txt for {name!r}; there are: {', '.join(known)}. "
            "Set prepare.train_split and prepare.val_split to names among these"
        )
    return found


def _read_list(folder: VocFolder, path: str, problems: list[Problem]) -> list[str]:
    names, repeated = read_list(text_of(path, problems), folder.annotations.suffixes)
    problems += [Problem("duplicate_entry", path, name) for name in repeated]
    return names


def _read_images(
    folder: VocFolder, names: Iterable[str], origin: int, problems: list[Problem]
) -> Iterator[AnnotatedImage]:
    for name in tracked(names, "reading annotations"):
        stem = folder.annotation_of(name)
        found = folder.images_of(name if stem is None else stem)
        paths = [path for place in found for path in folder.images.paths(place)]
        if stem is None:
            where = paths[0] if len(found) == 1 else f"{folder.root.rstrip('/')}/{name}"
            problems.append(Problem("missing_annotation", where))
            continue
        where = folder.annotations.paths(stem)[0]
        annotation = attempt(
            lambda where=where: parse_voc(read_bytes(where, limit=MAX_XML), where=where, origin=origin), where, problems
        )
        if annotation is None:
            continue
        problems += annotation.problems
        if len(found) != 1:
            several = f"several images have this name: {', '.join(paths[:4])}"
            problems.append(
                Problem("missing_image", where, several if found else f"no image named {name} in the dataset")
            )
            continue
        if len(paths) > 1:
            problems.append(Problem("ambiguous_image", paths[0], f"also {', '.join(paths[1:])}"))
        yield AnnotatedImage(paths[0], annotation.size, annotation.objects)
