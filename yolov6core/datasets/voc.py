"""Reads datasets in the layout of Pascal VOC: one XML file per image, and lists of image names.

The layout is `Annotations/`, `JPEGImages/` and `ImageSets/Main/`, as in the development kit. Its yearly folders may lie
side by side. Lists may be missing, and XML files may lie beside the images, as drawing tools leave them.
"""

from __future__ import annotations

import functools
import math
import os
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from yolov6core.data.files import Files, list_files, read_file
from yolov6core.data.image_header import IMAGE_SUFFIXES
from yolov6core.datasets.annotated import AnnotatedImage, AnnotatedObject, Box, DatasetError, Problem
from yolov6core.datasets.images import Images, ReadDataset

_ANNOTATION_FOLDERS = ("Annotations", "annotations", "")
_IMAGE_FOLDERS = ("JPEGImages", "images", "Images", "")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class AnnotationError(ValueError):
    """An annotation file that cannot be used at all."""


@dataclass(frozen=True)
class VocFolder:
    """One VOC tree: XML files, images and split lists."""

    root: str
    annotations: Files
    images: Files
    lists: Files

    def stems(self) -> list[str]:
        """Names of everything annotated or pictured, sorted."""
        return sorted(self.annotations.suffixes.keys() | self.images.suffixes.keys())


class VocAnnotation(NamedTuple):
    """Contents of one XML file; `size` is (height, width), None where missing or zero."""

    size: tuple[int, int] | None
    objects: tuple[AnnotatedObject, ...]
    problems: tuple[Problem, ...]


def voc_box(corners: Sequence[float], *, origin: int = 1) -> Box:
    """Corners (xmin, ymin, xmax, ymax) of an annotation to continuous pixels.

    Args:
        corners: the four numbers of `<bndbox>`.
        origin: 1 for VOC's own inclusive pixels, counted from 1: a box over a whole image of width W reads 1..W;
            0 for corners counted from 0, as labelImg and most exporters write them: the same box reads 0..W.
    """
    xmin, ymin, xmax, ymax = corners
    return (xmin - origin, ymin - origin, xmax, ymax)


def read_voc(
    root: str, *, train_split: Sequence[str] = ("train",), val_split: Sequence[str] = ("val",), origin: int = 1
) -> ReadDataset:
    """Read a VOC dataset.

    Args:
        root: a VOC tree, or a folder of several (`VOCdevkit` with `VOC2007`, `VOC2012`).
        train_split: names of lists in `ImageSets/Main`; `VOC2007/trainval` means the list of that tree alone.
        val_split: the same for validation.
        origin: see `voc_box`.

    Returns: splits `train` and `val`, or `all` where no tree has lists and none is named like a split; sizes come
        from the annotations.

    Raises:
        DatasetError: no VOC tree, or a missing list.
    """
    folders = find_voc(root)
    problems: list[Problem] = []
    wanted: dict[str, list[tuple[VocFolder, list[str]]]] = {}
    asked = {"train": train_split, "val": val_split}
    by_name = {os.path.basename(folder.root): folder for folder in folders}
    if any(folder.lists.suffixes for folder in folders):
        for split, names in asked.items():
            lists = [found for name in names for found in _lists(folders, name)]
            wanted[split] = [(folder, _read_list(folder, path, problems)) for folder, path in lists]
    elif all(name in by_name for names in asked.values() for name in names):
        for split, names in asked.items():
            wanted[split] = [(by_name[name], by_name[name].stems()) for name in names]
    else:
        wanted["all"] = [(folder, folder.stems()) for folder in folders]
    splits = {}
    for split, parts in wanted.items():
        splits[split] = Images(
            image for folder, names in parts for image in _read_images(folder, names, origin, problems)
        )
    return ReadDataset(splits=splits, problems=problems)


def is_voc(root: str) -> bool:
    """Whether `root` is or contains a VOC tree."""
    return any(map(_is_tree, _candidates(root)))


def find_voc(root: str) -> list[VocFolder]:
    """The VOC trees at or under `root`, sorted by name. Raises DatasetError if none is found."""
    if not os.path.isdir(root):
        raise DatasetError(f"{root} is not a folder; prepare.root must name the dataset's folder")
    folders: list[VocFolder] = []
    for candidate in _candidates(root):
        nested = any(candidate.startswith(folder.root + "/") for folder in folders)
        if not nested and _is_tree(candidate):
            folders.append(_open_folder(candidate))
    if not folders:
        raise DatasetError(
            f"no VOC dataset in {root}: expected Annotations/*.xml, or *.xml beside the images; "
            "point prepare.root at the folder that holds Annotations and JPEGImages"
        )
    return folders


def read_list(text: str, known: Container[str] = ()) -> tuple[list[str], list[str]]:
    """Names in a split list, and the repeated ones.

    A row is a name, or a name and a flag as in VOC's lists per class; rows flagged -1 (class absent) are left out. A
    row that is a `known` name is taken whole, so names may contain spaces.
    """
    names: dict[str, None] = {}
    repeated = []
    for row in text.splitlines():
        name = row.strip()
        parts = name.rsplit(maxsplit=1)
        if name not in known and len(parts) == 2 and parts[1] in ("-1", "0", "1"):
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


def parse_voc(data: bytes, *, where: str = "annotation", origin: int = 1) -> VocAnnotation:
    """Parse one XML file.

    Only `<name>` and `<bndbox>` of an object are needed; coordinates may be decimal; `<difficult>` defaults to 0;
    parts inside an object are not objects. A document type, and with it every entity, is refused.

    Raises:
        AnnotationError: not well-formed, a document type, or another root element than `annotation`.
    """
    root = _parse_xml(data)
    if root.tag != "annotation":
        raise AnnotationError(f"the root element is <{root.tag[:40]}>, VOC's is <annotation>")
    objects, problems, zero = [], [], False
    for number, element in enumerate(root.findall("object"), start=1):
        name = (element.findtext("name") or "").strip()
        corners = _corners(element.find("bndbox"))
        if not name or corners is None:
            problems.append(Problem("broken_object", where, f"object {number} ({name or 'no name'})"))
            continue
        zero = zero or 0 <= min(corners[:2]) < 1
        difficult = (element.findtext("difficult") or "0").strip().lower() in ("1", "true")
        objects.append(AnnotatedObject(name, voc_box(corners, origin=origin), difficult))
    if zero and origin == 1:
        problems.append(Problem("zero_coordinate", where))
    return VocAnnotation(_size(root.find("size")), tuple(objects), tuple(problems))


def _parse_xml(data: bytes) -> ElementTree.Element:
    try:
        # Expat takes UTF-16 too, where a search of the bytes would not see the document type.
        if b"\0" in data[:64]:
            data = data.decode("utf-16").encode("utf-8")
            data = re.sub(rb"^\s*<\?xml.*?\?>", b"", data)  # it names the encoding that is no longer in use
        if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
            raise AnnotationError("document types and entities are refused; remove <!DOCTYPE ...>")
        return ElementTree.fromstring(data)
    except (ElementTree.ParseError, UnicodeDecodeError, LookupError) as error:
        raise AnnotationError(f"not well-formed XML: {error}") from error


def _corners(box: ElementTree.Element | None) -> tuple[float, ...] | None:
    """Four finite numbers of a `<bndbox>`, or None."""
    if box is None:
        return None
    read = box.findtext
    try:
        corners = tuple([float(read(tag) or "") for tag in _CORNERS])
    except ValueError:
        return None
    return corners if all(map(math.isfinite, corners)) else None


def _size(element: ElementTree.Element | None) -> tuple[int, int] | None:
    """(height, width), or None where missing, zero (some drawing tools write that) or not numbers."""
    if element is None:
        return None
    try:
        height, width = (round(float(element.findtext(tag) or 0)) for tag in ("height", "width"))
    except (ValueError, OverflowError):
        return None
    return _shared_size(height, width) if height > 0 and width > 0 else None


@functools.lru_cache(maxsize=1024)
def _shared_size(height: int, width: int) -> tuple[int, int]:
    """The pair itself, the same one for all images of that size."""
    return height, width


def _join(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}" if name else folder


def _candidates(root: str) -> Iterator[str]:
    """Folders that may be a VOC tree."""
    yield root
    for parent in (root, _join(root, "VOCdevkit")):
        if os.path.isdir(parent):
            yield from sorted(_join(parent, name) for name in os.listdir(parent) if name != "VOCdevkit")


def _is_tree(root: str) -> bool:
    """Whether one of the folders for annotations contains one; stops at the first."""
    for folder in (_join(root, part) for part in _ANNOTATION_FOLDERS):
        if os.path.isdir(folder):
            with os.scandir(folder) as entries:
                if any(entry.name.lower().endswith(".xml") and entry.name[0] != "." for entry in entries):
                    return True
    return False


def _open_folder(root: str) -> VocFolder:
    annotations = _first_with_files(root, _ANNOTATION_FOLDERS, (".xml",))
    images = _first_with_files(root, _IMAGE_FOLDERS, IMAGE_SUFFIXES)
    return VocFolder(root, annotations, images, list_files(_join(root, "ImageSets/Main"), (".txt",)))


def _first_with_files(root: str, parts: tuple[str, ...], suffixes: tuple[str, ...]) -> Files:
    found = (list_files(_join(root, part), suffixes) for part in parts)
    return next((files for files in found if files.suffixes), Files(root, {}))


def _lists(folders: list[VocFolder], name: str) -> list[tuple[VocFolder, str]]:
    """The lists that a split name means, with their trees."""
    tree, _, split = name.rpartition("/")
    found = [
        (folder, folder.lists.paths(split)[0])
        for folder in folders
        if split in folder.lists.suffixes and (not tree or os.path.basename(folder.root) == tree)
    ]
    if not found:
        known = sorted({split for folder in folders for split in folder.lists.suffixes})
        raise DatasetError(f"no list ImageSets/Main/{split}.txt for {name!r}; there are: {', '.join(known)}")
    return found


def _read_list(folder: VocFolder, path: str, problems: list[Problem]) -> list[str]:
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        names, repeated = read_list(file.read(), folder.annotations.suffixes)
    problems += [Problem("duplicate_entry", path, name) for name in repeated]
    return names


def _read_images(
    folder: VocFolder, names: Iterable[str], origin: int, problems: list[Problem]
) -> Iterator[AnnotatedImage]:
    for name in names:
        paths = folder.images.paths(name)
        where = next(iter(folder.annotations.paths(name)), None)
        if where is None:
            problems.append(Problem("missing_annotation", paths[0] if paths else _join(folder.root, name)))
            continue
        try:
            annotation = parse_voc(read_file(where), where=where, origin=origin)
        except (AnnotationError, OSError) as error:
            problems.append(Problem("broken_annotation", where, str(error)))
            continue
        problems += annotation.problems
        if not paths:
            problems.append(Problem("missing_image", where, f"no image named {name} in the dataset"))
            continue
        if len(paths) > 1:
            problems.append(Problem("ambiguous_image", paths[0], f"also {', '.join(paths[1:])}"))
        yield AnnotatedImage(paths[0], annotation.size, annotation.objects)
