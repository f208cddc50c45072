"""What every stage shares at its edges: files it needs, files it writes, log lines, seeds."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from yolov6core.atomic import full_disk_explained
from yolov6core.errors import UserError, Interrupted, logger


def setup_logging() -> None:
    """One plain line per record on stderr, so that output reads the same in a terminal, a pipe and a DVC log."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)


@contextlib.contextmanager
def stage_errors() -> Iterator[None]:
    """Turn UserError into its message and exit code 1, Ctrl-C into exit code 130; others keep their traceback.

    A full disk is a UserError, too, whatever was being written.

    At the end, a warning names code of the project that was edited in the meantime: what was computed is of the old.
    """
    import typer

    setup_logging()
    before = source_digests()
    try:
        with full_disk_explained():
            yield
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    except Interrupted as reason:
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
    """Return `path` if it exists; else raise UserError naming the stage that makes it."""
    if not path.exists():
        raise UserError(f"{path} is missing: run 'dvc repro {made_by}' first")
    return path


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
