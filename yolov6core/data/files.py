"""Folders of many files, by name."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Files:
    """Files of one folder by name: `suffixes` maps a name without suffix to its suffixes, sorted.

    Whole paths of a hundred thousand files would take most of the memory.
    """

    folder: str
    suffixes: dict[str, tuple[str, ...]]

    def paths(self, stem: str) -> list[str]:
        """Paths of the files of that name; may be empty."""
        return [f"{self.folder}/{stem}{suffix}" for suffix in self.suffixes.get(stem, ())]


def read_file(path: str) -> bytes:
    """All bytes of a file, with half the system calls of Python's file objects. Raises OSError."""
    descriptor = open_to_read(path)
    try:
        return read_rest(descriptor)
    finally:
        os.close(descriptor)


def open_to_read(path: str) -> int:
    """A descriptor of the file; the caller closes it. Raises OSError."""
    return os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))


def read_rest(descriptor: int) -> bytes:
    """The unread rest of an open file."""
    parts = []
    while part := os.read(descriptor, 1 << 16):
        parts.append(part)
    return b"".join(parts)


def list_files(folder: str, suffixes: tuple[str, ...]) -> Files:
    """Files of a folder with one of the suffixes (any case); none if the folder does not exist."""
    found: dict[str, tuple[str, ...]] = {}
    alone: dict[str, tuple[str, ...]] = {}  # one tuple for all files with only that suffix; empty: not asked for
    if os.path.isdir(folder):
        with os.scandir(folder) as entries:
            for entry in entries:
                stem, _, suffix = entry.name.rpartition(".")
                own = alone.get(suffix)
                if own is None:
                    own = alone[suffix] = ("." + suffix,) if "." + suffix.lower() in suffixes else ()
                if own and stem and stem[0] != ".":
                    found[stem] = tuple(sorted(found[stem] + own)) if stem in found else own
    return Files(folder.rstrip("/"), found)
