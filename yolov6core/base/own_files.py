"""Files that a user names as outputs: none of them ever takes the place of a file that is somebody else's."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from yolov6core.base.atomic import full_disk_explained, temporary_name, write_to_disk
from yolov6core.base.errors import UserError


def refuse_taken(path: Path, *, option: str = "--out", sources: tuple[Path, ...] = ()) -> None:
    """Refuse an output that is one of the sources, or a folder, or lies below a file.

    Args:
        option: that named the output, for the message.
        sources: files that the command reads.

    Raises:
        UserError: with the way out.
    """
    for source in sources:
        if path.exists() and source.exists() and path.samefile(source):
            raise UserError(f"{option} {path} is the source itself, which would be overwritten; give another name")
    if path.is_dir():
        raise UserError(f"{option} {path} is a folder, a file is written; give the name of a file in it")
    _refuse_below_file(path.parent, option)


def refuse_foreign_files(
    folder: Path, *, own: tuple[str, ...], option: str = "--out", sources: tuple[Path, ...] = ()
) -> None:
    """Refuse a folder that is going to be replaced as a whole and holds other files than the command writes.

    Args:
        own: names of files that the command, or the stage it stands for, writes.
        sources: files that the command reads.

    Raises:
        UserError: it is no folder, lies below a file, or holds something else, which the message names.
    """
    _refuse_below_file(folder, option)
    if not folder.is_dir():
        return
    inside = [source for source in sources if folder.resolve() in source.resolve().parents]
    entries = sorted(entry.name for entry in folder.iterdir() if entry.name not in own or not entry.is_file())
    foreign = [str(source) for source in inside] or entries
    if foreign:
        shown = ", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else "")
        raise UserError(
            f"{option} {folder} is replaced as a whole and holds {shown}, which would be lost; give another folder"
        )


def output_folder(path: Path, *, option: str = "--out") -> Path:
    """Make a folder for outputs, with the folders above it, if it is not there.

    Raises:
        UserError: it is a file, lies below one, or cannot be made.
    """
    _refuse_below_file(path, option)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{option} {path} cannot be made ({error.strerror}); give another folder") from None
    if not os.access(path, os.W_OK):
        raise UserError(f"{option} {path} cannot be written to; give another folder")
    return path


def _refuse_below_file(folder: Path, option: str) -> None:
    for above in (folder, *folder.parents):
        if os.path.lexists(above) and not above.is_dir():
            raise UserError(f"{option}: {above} is a file, where a folder is needed; give another name")


def write_new(path: Path, data: bytes, *, option: str = "--out") -> None:
    """Write a file whole, unless another file has its name. A file of the same bytes stays as it is.

    Raises:
        UserError: another file, folder or link has the name, or the file cannot be written.
    """
    refuse_taken(path, option=option)
    temporary = temporary_name(path)
    with full_disk_explained(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_to_disk(temporary, data)
            place_new(temporary, path, option=option)
        except PermissionError as error:
            raise UserError(f"{option} {path} cannot be written ({error.strerror}); give another name") from None
        finally:
            temporary.unlink(missing_ok=True)


def place_new(written: Path, path: Path, *, option: str = "--out") -> None:
    """Give a written file its name, unless another file has it. A file of the same bytes stays as it is.

    Raises:
        UserError: another file, folder or link has the name; `written` is then still there.
    """
    try:
        os.link(written, path)  # fails where the name is taken, unlike a rename
        written.unlink()
    except FileExistsError:
        if not _equal(written, path):
            raise UserError(
                f"{option} {path} exists and is no output of this run; it is not overwritten: "
                "move it away, or give another name"
            ) from None
        written.unlink()
    except OSError:  # a file system without hard links
        if os.path.lexists(path):
            raise UserError(f"{option} {path} exists and is not overwritten; give another name") from None
        os.rename(written, path)


def _equal(a: Path, b: Path) -> bool:
    if b.is_symlink() or not b.is_file() or a.stat().st_size != b.stat().st_size:
        return False
    with open(a, "rb") as one, open(b, "rb") as other:
        while block := one.read(2**20):
            if block != other.read(2**20):
                return False
    return True


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's contents, hexadecimal. (`hashlib.file_digest` needs Python 3.11.)"""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
