"""Images of a dataset by the names that its files give them, in the dataset's folder only."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence

from yolov6core.data.files import Files, folders_below, list_files
from yolov6core.data.image_header import IMAGE_SUFFIXES
from yolov6core.datasets.annotated import Problem, is_safe_name


class Places:
    """Looks for images at given places first, then by name in the whole dataset."""

    def __init__(self, root: str, places: Sequence[str]) -> None:
        """Args:
        root: the dataset's folder.
        places: folders in which names are looked up, in this order.
        """
        self.root, self.places = root, tuple(dict.fromkeys(places))

    def find(self, name: str) -> str | None:
        """The path of an image; None if it is not there, or several images have this name.

        Of an absolute name from another machine the longest end that exists counts.
        """
        parts = [part for part in name.split("/") if part not in ("", ".")]
        for tail in self._tails(name, parts):
            for place in self.places:
                if os.path.isfile(f"{place}/{tail}"):
                    return f"{place}/{tail}"
        stem, _, suffix = "/".join(parts).rpartition(".")
        alike = [found for found in self._all.alike(stem) if "." + suffix in self._all.suffixes[found]]
        return f"{self.root}/{alike[0]}.{suffix}" if len(alike) == 1 else None

    @staticmethod
    def is_safe(name: str) -> bool:
        """Whether a name may be looked for: it stays in the folder, or is an absolute one of another machine."""
        drive = name[1:2] == ":"
        bare = name[2:] if drive else name
        parts = [part for part in bare.split("/") if part]
        return is_safe_name(name) or (
            len(parts) > 1 and (drive or name.startswith("/")) and is_safe_name("/".join(parts))
        )

    @staticmethod
    def _tails(name: str, parts: list[str]) -> list[str]:
        foreign = name.startswith("/") or name[1:2] == ":"
        return ["/".join(parts[start:]) for start in range(len(parts))] if foreign else [name]

    @functools.cached_property
    def _all(self) -> Files:
        return list_files(self.root, IMAGE_SUFFIXES, deep=True)


def broken_links(root: str) -> list[Problem]:
    """What DVC stops at in the dataset's folder, as problems: links that lead nowhere, names that are not UTF-8.

    Images of such names are reported by the check.
    """
    problems = []
    for path, _ in folders_below(root):
        front = path.rstrip("/")
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_symlink() and not os.path.exists(entry.path):
                    problems.append(Problem("broken_link", f"{front}/{entry.name}"))
                if not _is_utf8(entry.name) and not entry.name.lower().endswith(IMAGE_SUFFIXES):
                    detail = "a name that is not UTF-8; DVC stops at it"
                    problems.append(Problem("unsafe_path", f"{front}/{entry.name}", detail))
    return problems


def _is_utf8(name: str) -> bool:
    if name.isascii():
        return True
    try:
        name.encode()
    except UnicodeError:
        return False
    return True
