"""Folders of many files, by name."""

from __future__ import annotations

import os
import sys
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


def list_files(folder: str, suffixes: tuple[str, ...]) -> Files:
    """The files with one of the suffixes (any case), in the order of their names."""
    found: dict[str, tuple[str, ...]] = {}
    alone: dict[str, tuple[str, ...]] = {}  # one tuple for all files with only that suffix
    if os.path.isdir(folder):
        for name in sorted(os.listdir(folder)):
            stem, _, suffix = name.rpartition(".")
            suffix = sys.intern("." + suffix)
            if stem and suffix.lower() in suffixes and not name.startswith("."):
                found[stem] = (*found[stem], suffix) if stem in found else alone.setdefault(suffix, (suffix,))
    return Files(folder.rstrip("/"), found)
