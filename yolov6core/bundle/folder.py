"""The folder of a bundle: checksums of all files, by which a later run knows that the folder is its own."""

from __future__ import annotations

import json
from pathlib import Path

from yolov6core.base.errors import UserError
from yolov6core.base.own_files import sha256_of

CHECKSUMS = "SHA256SUMS"
"""As `sha256sum -c` reads it."""
DESCRIPTION = "bundle.json"
MADE_BY = "yolov6-quant bundle"
"""Value of `made_by` in the description of every bundle."""


def write_checksums(folder: Path) -> None:
    """Write the checksums of all files of a folder into it."""
    lines = [f"{_digest(folder / name)}  {name}\n" for name in _files(folder)]
    (folder / CHECKSUMS).write_text("".join(lines), encoding="utf-8", newline="\n")


def refuse_foreign_folder(folder: Path, *, option: str = "--out") -> None:
    """Refuse a folder that is going to be replaced and is not as an earlier run wrote it.

    Raises:
        UserError: it is no folder, holds files that no run wrote, or files that were changed since; they are named.
    """
    for above in (folder, *folder.parents):
        if above.is_symlink() and above == folder or above.exists() and not above.is_dir():
            raise UserError(f"{option}: {above} is a file or a link, where a folder is needed; give another name")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    known = _read_checksums(folder)
    if known is None:
        raise UserError(f"{option} {folder} is there and is no bundle; it is not replaced: give another folder")
    foreign = [name for name in _files(folder) if known.get(name) != _digest(folder / name)]
    if foreign:
        shown = ", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else "")
        raise UserError(
            f"{option} {folder} is replaced as a whole and holds files that no bundle wrote, or that were changed "
            f"since: {shown}; move them away, or give another folder"
        )


def _files(folder: Path) -> list[str]:
    """Names of all entries but folders and checksums, relative to the folder, with slashes, sorted."""
    entries = (entry for entry in folder.rglob("*") if entry.is_symlink() or not entry.is_dir())
    return sorted(name for name in (entry.relative_to(folder).as_posix() for entry in entries) if name != CHECKSUMS)


def _digest(path: Path) -> str:
    """SHA-256 of a regular file; empty for anything else, which equals no checksum."""
    if path.is_symlink() or not path.is_file():
        return ""
    return sha256_of(path)


def _read_checksums(folder: Path) -> dict[str, str] | None:
    """File -> checksum; None where the folder is no bundle."""
    checksums, description = folder / CHECKSUMS, folder / DESCRIPTION
    if not _digest(checksums) or not _digest(description):
        return None
    try:
        made_by = json.loads(description.read_bytes()).get("made_by")
    except (ValueError, AttributeError, RecursionError):
        return None
    if made_by != MADE_BY:
        return None
    lines = checksums.read_text(encoding="utf-8", errors="replace").splitlines()
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
