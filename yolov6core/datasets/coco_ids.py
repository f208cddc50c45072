"""Ids of COCO files: which image an annotation is for, which class a category is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeGuard

from yolov6core.datasets.annotated import DatasetError, Problem


class IdTable:
    """The images of a file by their ids, as they are or as text; what does not fit is reported."""

    def __init__(self, images: list[dict[str, Any]], path: str, problems: list[Problem]) -> None:
        self._images, self._path, self._problems = images, path, problems
        self._by_id: dict[int | float | str, int] = {}
        self._by_text: dict[str, int | None] = {}
        self._unusable: set[int] = set()
        self._files: dict[int, list[int]] = {}  # first place of a file -> all its places
        self._second: set[int] = set()
        self._mended = False
        self._add_ids()
        self._merge_files()

    def place_of(self, image_id: object, annotation_id: object) -> int | None:
        """The place of the image of an annotation, None if it has none."""
        if is_id(image_id):
            place = self._by_id.get(image_id)
            if place is None:
                place = self._by_text.get(_as_text(image_id))
                if place is not None and not self._mended:
                    self._mended = True
                    detail = f"annotations name {image_id!r}, the image has {self._images[place]['id']!r}"
                    self._problems.append(Problem("mended_id", self._path, detail))
            if place is not None:
                return place
        detail = f"annotation {annotation_id!r} of image {image_id!r}"[:200]
        self._problems.append(Problem("orphan_annotation", self._path, detail))
        return None

    def usable(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Place and entry of every image that boxes can be told for, each file once."""
        for place, entry in enumerate(self._images):
            if place not in self._unusable and place not in self._second:
                yield place, entry

    def same_file(self, place: int) -> list[int]:
        """All places of the file that the image at this place is of."""
        return self._files.get(place, [place])

    def _add_ids(self) -> None:
        for place, entry in enumerate(self._images):
            own = entry["id"]
            if not is_id(own):
                self._refuse(place, f"{entry['file_name']}: id {own!r}")
                continue
            first = self._by_id.setdefault(own, place)
            if first == place:
                text = _as_text(own)
                self._by_text[text] = None if text in self._by_text else place
            elif self._images[first]["file_name"] == entry["file_name"]:
                self._second.add(place)
                self._problems.append(Problem("duplicate_entry", self._path, str(entry["file_name"])))
            else:
                for one in (first, place):
                    if one not in self._unusable:
                        self._refuse(one, f"{self._images[one]['file_name']}: id {own!r} of several images")

    def _refuse(self, place: int, detail: str) -> None:
        self._unusable.add(place)
        self._problems.append(Problem("bad_image_id", self._path, detail[:200]))

    def _merge_files(self) -> None:
        """A file that is listed again under another id is one image with the objects of both."""
        first: dict[str, int] = {}
        for place, entry in enumerate(self._images):
            if place in self._unusable or place in self._second:
                continue
            name = str(entry["file_name"])
            if first.setdefault(name, place) != place:
                self._files.setdefault(first[name], [first[name]]).append(place)
                self._second.add(place)
                self._problems.append(Problem("merged_entry", self._path, name))


def is_id(value: object) -> TypeGuard[int | float | str]:
    """Whether a value can be an id: a number or text."""
    return isinstance(value, int | float | str) and not isinstance(value, bool) and value == value


def _as_text(own: int | float | str) -> str:
    """An id as text; whole numbers without zeros in front."""
    text = str(own).strip()
    return text.lstrip("0") or "0" if text.isdecimal() else text


def category_names(categories: list[dict[str, Any]], path: str, problems: list[Problem]) -> dict[Any, str]:
    """Category id -> class name, in the order of the ids; ids that are numbers also as text.

    Raises:
        DatasetError: a category without an id or a name, or two names for one id.
    """
    names: dict[Any, str] = {}
    for entry in categories:
        own, name = entry["id"], entry["name"]
        if not is_id(own) or not is_id(name) or not str(name).strip():
            raise DatasetError(
                f"{path}: category id {own!r} has the name {name!r}; give every category an id and a name"
            )
        name = str(name).strip()
        if names.get(own, name) != name:
            raise DatasetError(
                f"{path}: category id {own!r} is given to {names[own]!r} and to {name!r}; each needs its own id"
            )
        if own in names or name in names.values():
            problems.append(Problem("repeated_class", path, f"{name}: category id {own!r}"))
        names[own] = name
    ordered = {own: names[own] for own in sorted(names, key=lambda key: (isinstance(key, str), key))}
    return ordered | {str(own): name for own, name in ordered.items() if str(own) not in ordered}
