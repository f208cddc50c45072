"""The edges of every stage: log lines, errors and exit codes, needed files, and states of interrupted runs."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import typer

from stages.shared.paths import RESUME
from yolov6core.base.atomic import full_disk_explained
from yolov6core.base.code_version import fingerprint, is_loaded, source_digests
from yolov6core.base.errors import Interrupted, UserError, logger
from yolov6core.param_sections import ParamsError


def setup_logging() -> None:
    """One plain line per record on stderr, so that output reads the same in a terminal, a pipe and a DVC log."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)


@contextlib.contextmanager
def errors_as_exit_codes() -> Iterator[None]:
    """Turn errors into messages: wrong parameters end in exit code 2, UserError in 1, Ctrl-C in 130; others keep their
    traceback.

    A full disk is a UserError, too. At the end, a warning names code of the project that was edited in the meantime:
    the outputs come from the old code.
    """
    setup_logging()
    before = source_digests()
    try:
        with full_disk_explained():
            yield
    except (UserError, ParamsError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2 if isinstance(error, ParamsError) else 1) from None
    except Interrupted as reason:
        if str(reason):
            typer.echo(str(reason), err=True)
        raise typer.Exit(reason.exit_code) from None
    except KeyboardInterrupt:
        typer.echo("stopped at once; outputs are as they were", err=True)
        raise typer.Exit(130) from None
    finally:
        _warn_of_edited_code(before, source_digests())


def _warn_of_edited_code(before: dict[str, str], after: dict[str, str]) -> None:
    changed = sorted(name for name in before.keys() & after.keys() if before[name] != after[name] and is_loaded(name))
    if changed:
        logger.warning(
            "the code was edited while the stage ran, and the outputs are of neither version for certain: %s. "
            "Run the stage again",
            ", ".join(changed),
        )


def required(path: Path, *, made_by: str) -> Path:
    """The path itself. Raises UserError naming the stage that makes it, if it does not exist."""
    if not path.exists():
        raise UserError(f"{path} is missing: run 'dvc repro {made_by}' first")
    return path


def warn_if_untracked(path: Path, *, tracked: Path, parameter: str) -> None:
    """Warn if a file that a parameter names is outside the folder that the pipeline depends on."""
    if not path.resolve().is_relative_to(tracked.resolve()):
        message = "%s: %s is outside %s, so 'dvc repro' does not notice when the file changes; put it there"
        logger.warning(message, parameter, path, tracked)


def state_path(stage: str, *parts: Any, inputs: Iterable[Path] = ()) -> Path:
    """State file of a run, named after parameters, inputs and the project's code, so that no run resumes another."""
    return RESUME / stage / fingerprint(*parts, files=inputs) / "state.safetensors"


def finish(state: Path) -> None:
    """Drop the state of a run that has ended and whose outputs are written."""
    shutil.rmtree(state.parent, ignore_errors=True)


def how_to_continue() -> str:
    """How the user goes on after an interruption, with the command that was given."""
    if "DVC_STAGE" in os.environ:
        command = f"dvc repro {os.environ['DVC_STAGE'].rpartition(':')[2]}"
    else:
        command = shlex.join(["python", "-m", "stages", *sys.argv[1:]])
    return f"'{command}' continues from there"
