"""The folders of a VOC dataset: where XML files, images and lists lie."""

from __future__ import annotations

import os
from collections.abc import Container
from dataclasses import dataclass

from yolov6core.data.files import Files, folders_below, list_files
from yolov6core.data.image_header import IMAGE_SUFFIXES
from yolov6core.datasets.annotated import DatasetError
from yolov6core.datasets.reading import looks_like_split

_ANNOTATION_FOLDERS = ("Annotations", "annotations")
_IMAGE_FOLDERS = ("JPEGImages", "images", "Images")
_MASKS = ("SegmentationClass", "SegmentationObject", "SegmentationClassRaw", "SegmentationClassPNG")
_LIST_FOLDERS = ("ImageSets/Main", "ImageSets")


@dataclass(frozen=True)
class VocFolder:
    """One VOC tree: XML files, images and split lists (name -> path)."""

    root: str
    annotations: Files
    images: Files
    lists: dict[str, str]

    def stems(self) -> list[str]:
        """Names of everything annotated or pictured, sorted."""
        used = {name for stem in self.annotations.suffixes for name in self.images_of(stem)}
        return sorted(self.annotations.suffixes.keys() | (self.images.suffixes.keys() - used))

    def annotation_of(self, name: str) -> str | None:
        """The stem of the XML file for a name in a list, or for an image."""
        return _matched(name, self.annotations, self.images.suffixes)

    def images_of(self, stem: str) -> list[str]:
        """Names of the images of an XML file: of the same name, else those of this name in other folders.

        An image that an XML file of its own belongs to is not for another one.
        """
        if stem in self.images.suffixes:
            return [stem]
        return [name for name in self.images.alike(stem) if name == stem or name not in self.annotations.suffixes]


def find_voc(root: str) -> list[VocFolder]:
    """The VOC trees at or under `root`, sorted by name. Raises DatasetError if none is found."""
    if not os.path.isdir(root):
        raise DatasetError(f"{root} is not a folder; prepare.root must name the dataset's folder")
    trees = tree_roots(root)
    if not trees:
        raise DatasetError(
            f"no VOC dataset in {root}: expected Annotations/*.xml, or *.xml beside the images; "
            "point prepare.root at the folder that holds Annotations and JPEGImages"
        )
    return [_open_folder(tree) for tree in trees]


def tree_roots(root: str) -> list[str]:
    """The folders that hold a VOC tree: those with `Annotations`, else those with XML files and images, else `root`."""
    trees: list[str] = []
    for path, _ in folders_below(root, skip=(*_IMAGE_FOLDERS, *_MASKS, "labels")):
        inside = any(path == tree or path.startswith(tree.rstrip("/") + "/") for tree in trees)
        if not inside and any(_has(f"{path.rstrip('/')}/{part}", (".xml",)) for part in _ANNOTATION_FOLDERS):
            trees.append(path)
    if trees:
        return sorted(trees)
    parts = sorted(path for path, inside in folders_below(root) if inside and "/" not in inside)
    annotated = [path for path in parts if _has(path, (".xml",))]
    directly = bool(list_files(root, (".xml",)).suffixes)
    if not directly and annotated and all(_has(path, IMAGE_SUFFIXES) for path in annotated):
        return annotated
    return [root] if directly or annotated else []


def places_of(files: Files) -> str:
    """The folders in which files were seen, for a message."""
    folders = sorted({f"{files.folder}/{name}".rpartition("/")[0] for name in files.suffixes})
    return ", ".join(folders[:5]) + (" ..." if len(folders) > 5 else "") if folders else "no folder"


def _has(folder: str, suffixes: tuple[str, ...]) -> bool:
    """Whether a folder or one below holds such a file; stops at the first."""
    for path, _ in folders_below(folder, skip=_MASKS):
        with os.scandir(path) as entries:
            if any(entry.name.lower().endswith(suffixes) and entry.name[0] != "." for entry in entries):
                return True
    return False


def _open_folder(root: str) -> VocFolder:
    annotations = _first_with_files(root, _ANNOTATION_FOLDERS, (".xml",))
    return VocFolder(root, annotations, _first_with_files(root, _IMAGE_FOLDERS, IMAGE_SUFFIXES), _lists_of(root))


def _first_with_files(root: str, parts: tuple[str, ...], suffixes: tuple[str, ...]) -> Files:
    """The files of the first folder that has some; those of the whole tree if no folder is named so."""
    front = root.rstrip("/")
    found = (list_files(f"{front}/{part}", suffixes, deep=True) for part in parts)
    named = next((files for files in found if files.suffixes), None)
    return named or list_files(root, suffixes, deep=True, skip=_MASKS)


def _lists_of(root: str) -> dict[str, str]:
    """Name -> path of the lists in `ImageSets/Main` and `ImageSets`, else of those in the tree named like splits."""
    front = root.rstrip("/")
    lists: dict[str, str] = {}
    for folder in _LIST_FOLDERS:
        files = list_files(f"{front}/{folder}", (".txt",))
        lists = {name: files.paths(name)[0] for name in files.suffixes} | lists
    beside = list_files(root, (".txt",))
    named = {name: beside.paths(name)[0] for name in beside.suffixes if looks_like_split(name)}
    return lists or (named if len(named) > 1 else {})  # a single one may be anything


def _matched(name: str, files: Files, others: Container[str]) -> str | None:
    if name in files.suffixes:
        return name
    alike = files.alike(name)
    return alike[0] if len(alike) == 1 and (alike[0] not in others or name not in others) else None
