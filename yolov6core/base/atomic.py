"""Files and folders that come out whole or not at all, and stay: what every output is written by."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from yolov6core.base.errors import UserError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)  # the disk is full, the user's share of it is
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
    temporary = path.with_name(path.name + ".tmp")
    try:
        write_to_disk(temporary, data)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)  # only now does the rename survive a power loss


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

    Raises:
        UserError: the disk was full.
    """
    temporary = path.with_name(path.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
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
    shutil.rmtree(path, ignore_errors=True)
    os.replace(temporary, path)
