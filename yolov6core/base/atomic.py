"""Files and folders that come out whole or not at all, and stay: what every output is written by."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import json
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from yolov6core.base.errors import UserError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)  # the disk is full, the user's share of it is
_HERE, _RENAME_EXCHANGE = -100, 2  # AT_FDCWD, and the flag of renameat2 (linux/fs.h)
_ASIDE = ".old"
_SCARCE = 2**20
"""Bytes: with less room than this left, an error of a library that was writing is taken for one of a full disk."""


@contextlib.contextmanager
def full_disk_explained(path: Path | None = None) -> Iterator[None]:
    """Turn the error of a full disk into a UserError about the output `path`; None: about the file of the error."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        output = path or error.filename or "an output"
        raise UserError(
            f"{output} could not be written ({error.strerror}); what was there before is kept. "
            "Make room and give the same command again: a training that had ended only writes its outputs then"
        ) from error


def rounded(value: Any, digits: int = 5) -> Any:
    """Floats rounded to `digits` decimals, through dicts and lists."""
    if isinstance(value, float):
        return round(value, digits)
    if isinstance(value, dict):
        return {key: rounded(item, digits) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item, digits) for item in value]
    return value


def write_json(path: Path, document: Any) -> None:
    """Write JSON with rounded floats and a final newline, whole or not at all; same document, same bytes."""
    write_text(path, json.dumps(rounded(document), indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all.

    Raises:
        UserError: the disk is full.
    """
    with full_disk_explained(path):
        write_whole(path, text.encode())


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, so that it survives a power loss: a temporary file, then a rename.

    Raises:
        OSError: the file could not be written (a full disk, for one); a former one is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_leftovers(path)
    temporary = temporary_name(path)
    try:
        write_to_disk(temporary, data)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)  # only now does the rename survive a power loss


def temporary_name(path: Path) -> Path:
    """A name beside `path` that no other process uses. Names of dead processes are removed by `clear_leftovers`."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def write_to_disk(path: Path, data: bytes) -> None:
    """Write a file; when this returns, its contents are on the disk: a rename must never become durable before them."""
    with open(path, "wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())


def _sync(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder to fill; on success it becomes `path`, on any error `path` stays as it was.

    On Linux the two folders are exchanged in one step. Elsewhere the old one is renamed aside first; if the process is
    killed in between, the next start puts it back.

    Raises:
        UserError: the disk was full, or `path` is a link or a file.
    """
    if path.is_symlink() or path.is_file():
        raise UserError(f"{path} is a link or a file, where a folder is written; move it away")
    clear_leftovers(path)
    temporary = temporary_name(path)
    with full_disk_explained(path):
        try:
            temporary.mkdir(parents=True)
            yield temporary
        except BaseException as error:
            # Engine libraries tell of a full disk in errors of their own, and what was written so far takes the room.
            full = isinstance(error, RuntimeError) and shutil.disk_usage(temporary).free < _SCARCE
            shutil.rmtree(temporary, ignore_errors=True)
            if full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
            raise
    _swap(temporary, path)


def _swap(new: Path, path: Path) -> None:
    """Put the folder `new` in the place of `path`, and remove the old one."""
    if not path.exists():
        os.replace(new, path)
    elif _exchange(new, path):
        shutil.rmtree(new, ignore_errors=True)  # the old folder, by now
    else:
        aside = new.with_suffix(_ASIDE)
        os.replace(path, aside)
        os.replace(new, path)
        shutil.rmtree(aside, ignore_errors=True)
    _sync(path.parent)


def _exchange(a: Path, b: Path) -> bool:
    """Exchange two folders in one step; whether the system can (Linux, most file systems)."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    if rename is None:
        return False
    return rename(_HERE, os.fsencode(a), _HERE, os.fsencode(b), _RENAME_EXCHANGE) == 0


def clear_leftovers(path: Path) -> None:
    """Remove temporary files and folders of `path` that dead processes left; put back a folder that was set aside."""
    for left in sorted(path.parent.glob(f".{glob.escape(path.name)}.*-*")):
        number = left.name.removeprefix(f".{path.name}.").partition("-")[0]
        if left.suffix not in (".tmp", _ASIDE) or not number.isdecimal() or _is_alive(int(number)):
            continue
        if left.suffix == _ASIDE and not path.exists():
            os.replace(left, path)
        elif left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True
