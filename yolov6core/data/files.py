"""Folders of many files, by name."""

from __future__ import annotations

import functools
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from yolov6core.base.errors import logger
from yolov6core.base.inputs import open_input, printable, read_bytes, read_rest

__all__ = ["Files", "folders_below", "list_files", "open_to_read", "read_file", "read_rest"]
open_to_read = open_input
_MAX_DEPTH = 32  # folders inside each other


def read_file(path: str) -> bytes:
    """All bytes of a regular file. Raises OSError, and ValueError for a FIFO or a device."""
    return read_bytes(path, limit=None)


@dataclass(frozen=True)
class Files:
    """Files of one folder by name: `suffixes` maps a name without suffix to its suffixes, sorted.

    A name counts from the folder: `sub/a` for a file in a sub-folder. Whole paths of a hundred thousand files would
    take most of the memory.
    """

    folder: str
    suffixes: dict[str, tuple[str, ...]]

    def paths(self, stem: str) -> list[str]:
        """Paths of the files of that name; may be empty."""
        return [f"{self.folder}/{stem}{suffix}" for suffix in self.suffixes.get(stem, ())]

    def alike(self, name: str) -> list[str]:
        """Names here with the last part of `name` that share most of its folders, counted from the end.

        One name is an answer, several are a tie, none is none. The index is made at the first call.
        """
        best: list[str] = []
        most = 0
        wanted = name.split("/")
        for place in self._by_last_part.get(wanted[-1], ()):
            parts = place.split("/")
            shared = next(
                (n for n, (a, b) in enumerate(zip(reversed(parts), reversed(wanted), strict=False)) if a != b),
                min(len(parts), len(wanted)),
            )
            if shared > most:
                best, most = [], shared
            if shared == most:
                best.append(place)
        return best

    @functools.cached_property
    def _by_last_part(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name in self.suffixes:
            found.setdefault(name[name.rfind("/") + 1 :], []).append(name)
        return found


def folders_below(folder: str, *, skip: Collection[str] = ()) -> Iterator[tuple[str, str]]:
    """The folder and all below it as (path, path from the folder), in order; each once, although links may turn back.

    Hidden ones are left out, and those named in `skip` with everything below them.
    """
    seen: set[tuple[int, int]] = set()
    waiting = [("", 0)]
    while waiting:
        inside, depth = waiting.pop()
        path = f"{folder}/{inside}" if inside else folder
        try:
            found = os.stat(path)
            with os.scandir(path) as entries:
                names = sorted(
                    entry.name
                    for entry in entries
                    if entry.name[0] != "." and entry.name not in skip and entry.is_dir()
                )
        except OSError as error:
            if inside or not isinstance(error, FileNotFoundError | NotADirectoryError):
                logger.warning("folder %s cannot be read (%s); it is left out", printable(path), error.strerror)
            continue
        if (found.st_dev, found.st_ino) in seen:
            continue
        seen.add((found.st_dev, found.st_ino))
        yield path, inside
        if depth < _MAX_DEPTH:
            waiting += [(f"{inside}/{name}" if inside else name, depth + 1) for name in reversed(names)]


def list_files(folder: str, suffixes: tuple[str, ...], *, deep: bool = False, skip: Collection[str] = ()) -> Files:
    """Files of a folder with one of the suffixes (any case); none if the folder does not exist.

    Args:
        deep: with those of all folders below.
        skip: names of folders below that are left out.
    """
    found: dict[str, tuple[str, ...]] = {}
    alone: dict[str, tuple[str, ...]] = {}  # one tuple for all files with only that suffix; empty: not asked for
    places = folders_below(folder, skip=skip) if deep else [(folder, "")] if os.path.isdir(folder) else []
    for path, inside in places:
        front = inside + "/" if inside else ""
        with os.scandir(path) as entries:
            for entry in entries:
                stem, _, suffix = entry.name.rpartition(".")
                own = alone.get(suffix)
                if own is None:
                    own = alone[suffix] = ("." + suffix,) if "." + suffix.lower() in suffixes else ()
                if own and stem and stem[0] != ".":
                    stem = front + stem
                    found[stem] = tuple(sorted(found[stem] + own)) if stem in found else own
    return Files(folder.rstrip("/"), found)
