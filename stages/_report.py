"""What every stage shares at its edges: files it needs, files it writes, log lines, seeds."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

logger = logging.getLogger("yolov6-quant")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)  # the disk is full, the user's share of it is
_SCARCE = 2**20
"""Bytes: with less room than this left, an error of a library that was writing is taken for one of a full disk."""


class StageError(Exception):
    """A problem that a person can mend: printed without a traceback, exit code 1."""


class StageStopped(Exception):
    """The stage was asked to stop and did so in good order: the message, if any, says how to continue.

    The exit code is 130, but for processes that another one started and answers for.
    """

    def __init__(self, message: str, *, exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def setup_logging() -> None:
    """One plain line per record on stderr, so that output reads the same in a terminal, a pipe and a DVC log."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)


@contextlib.contextmanager
def room_needed(path: Path | None = None) -> Iterator[None]:
    """Turn the error of a full disk into a StageError about the output `path`; None: about the file of the error."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        output = path or error.filename or "an output"
        raise StageError(
            f"{output} could not be written ({error.strerror}); what was there before is kept. "
            "Make room and give the same command again: a training that had ended only writes its outputs then"
        ) from error


@contextlib.contextmanager
def stage_errors() -> Iterator[None]:
    """Turn StageError into its message and exit code 1, Ctrl-C into exit code 130; others keep their traceback.

    A full disk is a StageError, too, whatever was being written.

    At the end, a warning names code of the project that was edited in the meantime: what was computed is of the old.
    """
    import typer

    setup_logging()
    before = source_digests()
    try:
        with room_needed():
            yield
    except StageError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    except StageStopped as reason:
        if str(reason):
            typer.echo(str(reason), err=True)
        raise typer.Exit(reason.exit_code) from None
    except KeyboardInterrupt:
        typer.echo("stopped at once; outputs are as they were", err=True)
        raise typer.Exit(130) from None
    finally:
        after = source_digests()
        changed = sorted(name for name in before.keys() & after.keys() if before[name] != after[name] and _loaded(name))
        if changed:
            logger.warning(
                "the code was edited while the stage ran, and the outputs are of neither version for certain: %s. "
                "Run the stage again",
                ", ".join(changed),
            )


def _loaded(source: str) -> bool:
    return source.removesuffix(".py").replace("/", ".") in sys.modules


def source_digests() -> dict[str, str]:
    """SHA-256 of every source file of the project, by its path from the folder of the packages."""
    root = Path(__file__).parents[1]
    sources = [path for package in ("stages", "yolov6core") for path in (root / package).rglob("*.py")]
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in sources}


def warn_unless_in(folder: Path, path: Path, *, where: str) -> None:
    """Say so if a file that a parameter names is outside the folder whose contents the pipeline keeps an eye on."""
    if not path.resolve().is_relative_to(folder.resolve()):
        message = "%s: %s is outside %s, so 'dvc repro' does not notice when the file changes; put it there"
        logger.warning(message, where, path, folder)


def fingerprint(*parts: Any, files: Iterable[Path] = ()) -> str:
    """Sixteen hex digits that change with the project's code, any of the JSON-serialisable parts, or file contents."""
    digest = hashlib.sha256(json.dumps([source_digests(), *parts], sort_keys=True, default=str).encode())
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def need(path: Path, made_by: str) -> Path:
    """Return `path` if it exists; else raise StageError naming the stage that makes it."""
    if not path.exists():
        raise StageError(f"{path} is missing: run 'dvc repro {made_by}' first")
    return path


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
    """Write a text file whole or not at all (temporary file in the same folder, then rename).

    Raises:
        StageError: the disk is full.
    """
    temporary = path.with_name(path.name + ".tmp")
    with room_needed(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder to fill; on success it becomes `path`, on any error `path` stays as it was.

    Raises:
        StageError: the disk was full.
    """
    temporary = path.with_name(path.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    with room_needed(path):
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


def set_threads(threads: int) -> int:
    """Give torch and OpenCV `threads` threads (0: all cores); returns the number in use.

    The thread count changes the order of floating-point sums, so weights are byte-identical only for equal counts.
    """
    import cv2
    import torch

    count = threads or os.cpu_count() or 1
    torch.set_num_threads(count)
    cv2.setNumThreads(1)
    return count
