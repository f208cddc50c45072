"""Where a YOLO dataset says that its classes and splits are: YAML, darknet's `obj.data`, lists, folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from yolov6core.data.files import folders_below, list_files
from yolov6core.data.image_header import IMAGE_SUFFIXES
from yolov6core.datasets.annotated import DatasetError, Problem, is_safe_name
from yolov6core.datasets.reading import (
    checked_names,
    is_whole,
    looks_like_split,
    missing_split,
    same_names,
    text_of,
    yaml_of,
)

_YAML_FILES = ("data.yaml", "dataset.yaml", "data.yml", "dataset.yml")
_NAME_FILES = ("classes.txt", "obj.names", "labels/classes.txt", "labels.txt", "_darknet.labels")


@dataclass(frozen=True)
class YoloDescription:
    """Class names, and what a description file holds: `train`, `val`, `path`, `kpt_shape`."""

    names: list[str]
    document: dict[str, object] = field(default_factory=dict)

    @property
    def base(self) -> str:
        """The folder in the dataset that paths of the description start from."""
        return str(self.document.get("path") or "")

    def box_only(self) -> int | None:
        """Numbers behind the class in a row that holds a box and key points; None for data without key points."""
        shape = self.document.get("kpt_shape")
        if isinstance(shape, list) and len(shape) == 2 and all(isinstance(n, int) and 0 < n < 10**4 for n in shape):
            return 4 + shape[0] * shape[1]
        return None


def describe(root: str, problems: list[Problem]) -> YoloDescription:
    """Class names of the dataset, and the file that tells its places. Raises DatasetError where names are missing."""
    for name in _YAML_FILES:
        if os.path.lexists(f"{root}/{name}"):
            return _of_yaml(f"{root}/{name}", problems)
    document = _darknet(root, problems)
    told = [str(document["names"])] if "names" in document else []
    for name in (*_NAME_FILES, *told):
        path = _found(root, name)
        if path is not None:
            rows = [row.strip() for row in text_of(path, problems).splitlines()]
            return YoloDescription(checked_names([row for row in rows if row], path, problems), document)
    others = list_files(root, (".yaml", ".yml"))
    if len(others.suffixes) == 1:
        return _of_yaml(others.paths(next(iter(others.suffixes)))[0], problems)
    raise DatasetError(f"class names are missing: {root} has none of {', '.join((*_YAML_FILES[:2], *_NAME_FILES[:2]))}")


def _of_yaml(path: str, problems: list[Problem]) -> YoloDescription:
    document = yaml_of(path, problems)
    names = document.get("names")
    if isinstance(names, dict) and all(isinstance(key, int) for key in names):
        names = [names[index] for index in sorted(names)] if sorted(names) == list(range(len(names))) else None
    if isinstance(names, list) and names:
        return YoloDescription(checked_names(names, path, problems), document)
    raise DatasetError(f"{path}: 'names' must be a list of class names, or a mapping of 0, 1, ... to names")


def _darknet(root: str, problems: list[Problem]) -> dict[str, object]:
    """Keys and values of `obj.data`; empty if it is not there."""
    if not os.path.lexists(f"{root}/obj.data"):
        return {}
    rows = (row.partition("=") for row in text_of(f"{root}/obj.data", problems).splitlines() if "=" in row)
    found: dict[str, object] = {key.strip(): value.strip() for key, _, value in rows}
    if "valid" in found:
        found.setdefault("val", found["valid"])
    return {key: value for key, value in found.items() if value and key in ("train", "val", "valid", "test", "names")}


def _found(root: str, name: str) -> str | None:
    """A file of this name, without leading folders that are not there."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    tails = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((f"{root}/{tail}" for tail in tails if os.path.lexists(f"{root}/{tail}")), None)


def split_images(
    root: str, asked: dict[str, Sequence[str]], told: YoloDescription, problems: list[Problem]
) -> dict[str, list[str]]:
    """Paths of the images by split, `all` where the data has none or both splits are the same place.

    Raises:
        DatasetError: a split is missing while there are others, or lies outside `root`.
    """
    names = [name for part in asked.values() for name in part]
    places = {name: place for name in names if (place := _place_of(root, name, told)) is not None}
    known = _known(root, told)
    if same_names(asked["train"], asked["val"]) and all(name in places for name in names):
        places = {name: places[name] for name in dict.fromkeys(names)}
        return {"all": [path for place in places.values() for path in _images_of(root, place, told, problems)]}
    if len(places) == len(set(names)):
        if len({tuple(place) for place in places.values()}) == 1:
            return {"all": _images_of(root, next(iter(places.values())), told, problems)}
        return {
            split: [path for name in part for path in _images_of(root, places[name], told, problems)]
            for split, part in asked.items()
        }
    direct = _images_in(f"{root}/images", deep=False)
    if not direct and is_whole(list(known)) and "list" in known.values():  # one list for everything
        place = _place_of(root, next(iter(known)), told)
        return {"all": _images_of(root, place or [], told, problems)}
    if not direct and known:
        raise _no_folder(root, next(name for name in names if name not in places), known)
    found = _images_in(f"{root}/images") if os.path.isdir(f"{root}/images") else _images_in(root)
    if not found:
        raise _no_folder(root, names[0], known)
    return {"all": found}


def _no_folder(root: str, name: str, known: dict[str, str]) -> DatasetError:
    told = f"no folder for the split {name!r}: neither {root}/images/{name} nor {root}/{name}/images"
    return DatasetError(f"{told}; {missing_split([name], known, root)}" if known else told)


def _known(root: str, told: YoloDescription) -> dict[str, str]:
    """Names of splits that the data has, and how: by the description, as a list, as a folder."""
    known = {key: "told" for key in told.document if looks_like_split(key) and told.document[key]}
    for key in known:
        entry = told.document[key]
        known[key] = "list" if isinstance(entry, str) and entry.endswith(".txt") else "told"
    lists = list_files(root, (".txt",)).suffixes
    known = {name: "list" for name in lists if looks_like_split(name)} | known
    for folder, nested in ((f"{root}/images", ""), (root, "images")):
        if os.path.isdir(folder):
            for name in sorted(os.listdir(folder)):
                if looks_like_split(name) and os.path.isdir(f"{folder}/{name}/{nested}"):
                    known[name] = "folder"
    if known.get("val") == known.get("valid") == "list" and told.document.get("val") == told.document.get("valid"):
        known.pop("valid", None)
    return known


def _place_of(root: str, name: str, told: YoloDescription) -> list[str] | None:
    """The entries of a split: of the description, a folder of its name, a list of its name; None if there is none."""
    if told.document.get(name):
        value = told.document[name]
        return [str(entry).replace("\\", "/") for entry in (value if isinstance(value, list) else [value])]
    folders = (f"images/{name}", f"{name}/images")
    found = next((place for place in folders if os.path.isdir(f"{root}/{place}")), None)
    if found is None and os.path.isfile(f"{root}/{name}.txt"):
        found = f"{name}.txt"
    if found is None and looks_like_split(name) and os.path.isdir(f"{root}/{name}"):
        found = name if _images_in(f"{root}/{name}") else None
    return None if found is None else [found]


def _images_of(root: str, entries: list[str], told: YoloDescription, problems: list[Problem]) -> list[str]:
    """Paths of the images of folders and lists."""
    paths = []
    for entry in entries:
        place = _locate(root, entry, told.base, foreign=entry.endswith(".txt"))
        if os.path.isdir(place):
            paths += _images_in(place)
        elif place.lower().endswith(IMAGE_SUFFIXES):
            paths.append(place)
        else:
            rows = (row.strip().replace("\\", "/") for row in text_of(place, problems).splitlines())
            paths += [_locate(root, row, told.base, must_exist=False, foreign=True) for row in rows if row]
    return paths


def _locate(root: str, entry: str, base: str, *, must_exist: bool = True, foreign: bool = False) -> str:
    """A path of a description or a list, looked up in the dataset's folder only.

    It starts at `root` or at the description's `path` in it. Exporters write `../train/images` for a folder beside the
    file, or absolute paths of another machine, and lists have prefixes: leading parts of these are dropped until the
    rest is found.
    """
    foreign = foreign or entry.startswith(("../", "/")) or entry[1:2] == ":"
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


def _images_in(folder: str, *, deep: bool = True) -> list[str]:
    """Paths of the images in a folder and below it, sorted."""
    files = list_files(folder, IMAGE_SUFFIXES, deep=deep)
    return sorted(path for name in files.suffixes for path in files.paths(name))


def label_folders(root: str) -> list[str]:
    """The folders named `labels`, not inside each other."""
    found: list[str] = []
    for path, inside in folders_below(root, skip=("images", "JPEGImages")):
        if inside.rpartition("/")[2] == "labels" and not any(path.startswith(one + "/") for one in found):
            found.append(path)
    return found
