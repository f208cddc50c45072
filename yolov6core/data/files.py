"""Folders of many files, by name."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Files:
    """Files of one folder by name: `suffixes` maps a name without suffix to the suffixes it occurs with, sorted.

    Whole paths of a hundred thousand files would take most of the memory.
    """

    folder: str
    suffixes: dict[str, tuple[str, ...]]

    def paths(self, stem: str) -> list[str]:
        """The files of that name; none where there is none."""
        return [f"{self.folder}/{stem}{suffix}" for suffix in self.suffixes.get(stem, ())]


def read_file(path: str) -> bytes:
    """All bytes of a file, in half the calls of the operating system that Python's file objects take."""
    descriptor = open_to_read(path)
    try:
        return read_rest(descriptor)
    finally:
        os.close(descriptor)


def open_to_read(path: str) -> int:
    """A descriptor of the file, for the caller to close; raises OSError."""
    return os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))


def read_rest(descriptor: int) -> bytes:
    """What is left of an open file."""
    parts = []
    while part := os.read(descriptor, 1 << 16):
        parts.append(part)
    return b"".join(parts)


def list_files(folder: str, suffixes: tuple[str, ...]) -> Files:
    """The files with one of the suffixes (any case)."""
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
