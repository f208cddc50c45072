"""The folder that a command writes pictures into: files of an earlier run are replaced, those of anybody else never."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from yolov6core.base.atomic import clear_leftovers, full_disk_explained, rounded, temporary_name, write_to_disk
from yolov6core.base.errors import UserError
from yolov6core.base.own_files import output_folder, place_new, sha256_of

DOCUMENT = "detections.json"
TABLE = "detections.csv"
MAX_DOCUMENT_BYTES = 2**30


class ResultsFolder:
    """Writes outputs by name. The document keeps the digest of every file, so that the next run knows them.

    While a run lasts, a hidden file keeps account of them, also for a run that is killed. A file that was changed or
    put there by somebody else has another digest, and stops the run before it begins.
    """

    def __init__(
        self,
        path: Path,
        names: Iterable[str],
        *,
        document: str = DOCUMENT,
        table: str = TABLE,
        command: str = "infer",
    ) -> None:
        """Make the folder.

        Args:
            names: of all files that this run is going to write, beside the table and the document.
            document, table: names of the JSON and the CSV file.
            command: that writes, for messages.

        Raises:
            UserError: one of them is there and was not written by an earlier run, or the folder cannot be made.
        """
        self.path = output_folder(path)
        self.document, self.table = document, table
        self._account = self.path / f".{document}.account"
        self._earlier = _written_before(self.path / document)
        self._broken_off = _accounted(self._account)
        self._written: dict[str, str] = {}
        for name in (*names, table, document):
            clear_leftovers(self.path / name)
            if os.path.lexists(self.path / name) and not self._is_earlier(name):
                raise UserError(
                    f"--out {path}: {name} is there, is not as an earlier run of {command} wrote it, and would be "
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
        digest = sha256_of(temporary)
        with open(self._account, "ab", buffering=0) as account:
            account.write(f"{digest} {name}\n".encode(errors="surrogateescape"))
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
        self.write(self.table, table.encode())
        broken_off = {name: sha256_of(self.path / name) for name in self._broken_off if self._is_earlier(name)}
        whole = rounded(document | {"outputs": {**self._earlier, **broken_off, **self._written}})
        whole["digest"] = _document_digest(whole)
        self.write(self.document, (json.dumps(whole, indent=2, allow_nan=False) + "\n").encode())
        self._account.unlink(missing_ok=True)

    def drop_earlier(self) -> None:
        """Remove what only an earlier run wrote and nobody has changed since."""
        written = (*self._written, self.document, self.table)
        for name in [name for name in {**self._earlier, **self._broken_off} if name not in written]:
            if self._is_earlier(name):
                (self.path / name).unlink()
            self._earlier.pop(name, None)

    def abandon(self) -> None:
        """After an error: keep account of the files that were written, so that the next run may replace them."""
        if self._written:
            self.finish({"problem": "the run broke off"}, "")

    def _is_earlier(self, name: str) -> bool:
        """Whether a file of this name is there, as this or an earlier run wrote it."""
        path, known = self.path / name, self._written.get(name) or self._earlier.get(name)
        digests = {known, *self._broken_off.get(name, ())}
        if path.is_symlink() or not path.is_file() or digests == {None}:
            return False
        return sha256_of(path) in digests


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


def _written_before(path: Path) -> dict[str, str]:
    """File name -> digest of the outputs of earlier runs; empty where their document is missing or was changed."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size > MAX_DOCUMENT_BYTES:
        return {}
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    outputs = document.get("outputs") if isinstance(document, dict) else None
    if not isinstance(outputs, dict) or document.pop("digest", None) != _document_digest(document):
        return {}
    return {**outputs, path.name: sha256_of(path)}


def _accounted(path: Path) -> dict[str, set[str]]:
    """File name -> digests that a killed run gave, or was about to give, to files of that name."""
    found: dict[str, set[str]] = {}
    if path.is_file() and not path.is_symlink() and path.stat().st_size <= MAX_DOCUMENT_BYTES:
        for line in path.read_bytes().decode(errors="surrogateescape").split("\n"):
            digest, _, name = line.partition(" ")
            found.setdefault(name, set()).add(digest)
    return found


def _document_digest(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
