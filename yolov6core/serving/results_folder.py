"""The folder that `infer` writes into: files of an earlier run are replaced, files of anybody else never."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from yolov6core.base.atomic import clear_leftovers, full_disk_explained, rounded, temporary_name, write_to_disk
from yolov6core.base.errors import UserError
from yolov6core.base.own_files import output_folder, place_new

DOCUMENT = "detections.json"
TABLE = "detections.csv"
MAX_DOCUMENT_BYTES = 2**30


class ResultsFolder:
    """Writes outputs by name. `detections.json` keeps the digest of every file, so that the next run knows them.

    A file that was changed or put there by somebody else has another digest, and stops the run before it begins.
    """

    def __init__(self, path: Path, names: Iterable[str]) -> None:
        """Make the folder.

        Args:
            names: of all files that this run is going to write, beside the table and the document.

        Raises:
            UserError: one of them is there and was not written by an earlier run, or the folder cannot be made.
        """
        self.path = output_folder(path)
        self._earlier = _written_before(self.path)
        self._written: dict[str, str] = {}
        for name in (*names, TABLE, DOCUMENT):
            clear_leftovers(self.path / name)
            if os.path.lexists(self.path / name) and not self._is_earlier(name):
                raise UserError(
                    f"--out {path}: {name} is there, is not as an earlier run of infer wrote it, and would be "
                    "overwritten; move it away, or give another folder"
                )

    def temporary(self, name: str) -> Path:
        """A path in the folder to write the file under, with its suffix, until `place`."""
        hidden = temporary_name(self.path / name)
        return hidden.with_name(hidden.name + Path(name).suffix)

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole or not at all. Raises UserError if somebody put one of its name there meanwhile."""
        temporary = temporary_name(self.path / name)
        with full_disk_explained(self.path / name):
            try:
                write_to_disk(temporary, data)
                self.place(temporary, name)
            finally:
                temporary.unlink(missing_ok=True)

    def place(self, temporary: Path, name: str) -> None:
        """Give a written file its name. Raises UserError if somebody put one of its name there meanwhile."""
        digest = _digest(temporary)
        if self._is_earlier(name):
            os.replace(temporary, self.path / name)
        else:
            place_new(temporary, self.path / name)
        self._written[name] = digest

    def finish(self, document: dict[str, Any], table: str) -> None:
        """Write the table and the document.

        Raises:
            UserError: the disk is full, or one of the two is there by now.
        """
        self.write(TABLE, table.encode())
        kept = {name: digest for name, digest in self._earlier.items() if name not in self._written}
        whole = rounded(document | {"outputs": {**kept, **self._written}})
        whole["digest"] = _document_digest(whole)
        self.write(DOCUMENT, (json.dumps(whole, indent=2, allow_nan=False) + "\n").encode())

    def abandon(self) -> None:
        """After an error: keep account of the files that were written, so that the next run may replace them."""
        if self._written:
            self.finish({"problem": "the run broke off"}, "")

    def _is_earlier(self, name: str) -> bool:
        """Whether a file of this name is there, as this or an earlier run wrote it."""
        path, known = self.path / name, self._written.get(name) or self._earlier.get(name)
        if path.is_symlink() or not path.is_file():
            return False
        return known is not None and _digest(path) == known


def picture_names(sources: Iterable[str]) -> dict[str, str]:
    """Name of an image file -> name of its drawn picture: `a.png` and `a.png.jpg` must not become the same file."""
    chosen: dict[str, str] = {}
    sources = list(sources)
    taken = {name.lower() for name in sources if name.lower().endswith((".jpg", ".jpeg"))}
    for name in sources:
        if name.lower() in taken:
            chosen[name] = name
            continue
        number, target = 2, f"{name}.jpg"
        while target.lower() in taken:
            number, target = number + 1, f"{name}.{number}.jpg"
        taken.add(target.lower())
        chosen[name] = target
    return chosen


def _written_before(folder: Path) -> dict[str, str]:
    """File name -> digest of the outputs of earlier runs; empty where their document is missing or was changed."""
    path = folder / DOCUMENT
    if path.is_symlink() or not path.is_file() or path.stat().st_size > MAX_DOCUMENT_BYTES:
        return {}
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    outputs = document.get("outputs") if isinstance(document, dict) else None
    if not isinstance(outputs, dict) or document.pop("digest", None) != _document_digest(document):
        return {}
    return {**outputs, DOCUMENT: _digest(path)}


def _document_digest(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
