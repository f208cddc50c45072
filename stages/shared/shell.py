"""The edges of every stage: log lines, errors and exit codes, locks, needed files, and states of interrupted runs."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import shutil
import sys
import time
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import typer

from stages.params import RuntimeParams, conflicts_between
from stages.shared.bars import bars_on
from stages.shared.flow import FLOW, LAST, missing_inputs, next_command
from stages.shared.paths import PARAMS, RESUME
from yolov6core.base.atomic import full_disk_explained
from yolov6core.base.code_version import edited_since, fingerprint, source_digests
from yolov6core.base.errors import Interrupted, UserError, logger
from yolov6core.base.locks import held_alone
from yolov6core.base.parent import end_with_starter
from yolov6core.base.waiting import Waiting, settle_waiting
from yolov6core.param_sections import ParameterFile, ParamsError

LAUNCHED = "YOLOV6_STOP_FILE"
"""Set in processes that a stage has started itself: it holds the lock for them."""
KEPT_DAYS = 30
"""States of interrupted runs that nobody continued go after so many days."""
LOCK_SECONDS = 30.0
"""A stage waits so long for another run of it, which may be about to end with the process that started it."""


@contextlib.contextmanager
def errors_as_exit_codes() -> Iterator[None]:
    """Turn errors into messages: wrong parameters end in exit code 2, UserError in 1, Ctrl-C in 130; others keep their
    traceback. A full disk is a UserError, too. Log records are plain lines on stderr; on a terminal, bars of running
    work stand below them."""
    try:
        with bars_on(sys.stderr) as lines, full_disk_explained():
            logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[lines], force=True)
            yield
    except (UserError, ParamsError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2 if isinstance(error, ParamsError) else 1) from None
    except Interrupted as reason:
        if str(reason):
            typer.echo(str(reason), err=True)
        raise typer.Exit(reason.exit_code) from None
    except KeyboardInterrupt:
        typer.echo(f"stopped at once; {_state_of_outputs()}", err=True)
        raise typer.Exit(130) from None


@contextlib.contextmanager
def stage_run(stage: str, params: Path, changes: Sequence[str] | None = None) -> Iterator[ParameterFile]:
    """A run of a stage: errors as above, alone, on parameters and code that stay as they are.

    Gives the parameter file to read sections from; `changes` count instead of its values. If values of these sections
    or the code were edited while the stage ran, the run fails at its end, so that DVC does not record new values for
    outputs of the old ones.
    """
    with errors_as_exit_codes(), _held(stage):
        if "DVC_STAGE" in os.environ and LAUNCHED not in os.environ:
            end_with_starter()
        _drop_old_states()
        before, file = source_digests(), parameter_file(params, changes)
        (runtime,) = file.read(RuntimeParams)
        settle_threads(runtime.waiting, threads=runtime.threads)
        yield file
        edited = [*file.edited(ignoring=("runtime",)), *edited_since(before)]
        if edited:
            raise UserError(
                f"edited while the stage ran, so that its outputs are of neither version for certain: "
                f"{', '.join(edited)}. Run the stage again"
            )
        _say_next(stage, params)


def _say_next(stage: str, params: Path) -> None:
    """Name the next stage, unless DVC or torchrun, which have started this process, go on themselves."""
    dvc_goes_on = "DVC_STAGE" in os.environ and stage != LAST
    if stage in FLOW and LAUNCHED not in os.environ and not dvc_goes_on:
        logger.info("next: %s", next_command(stage, params))


def settle_threads(waiting: Waiting = "auto", *, threads: int = 0) -> None:
    """Settle how threads wait, see `settle_waiting`, and say it. Processes that a stage starts have it from there."""
    settled = None if LAUNCHED in os.environ else settle_waiting(waiting, threads=threads)
    if settled:
        logger.info("%s", settled)


def parameter_file(params: Path, changes: Sequence[str] | None = None) -> ParameterFile:
    """The file to read sections from; `changes` count instead of its values."""
    return ParameterFile(params, base=PARAMS, changes=changes or (), between=conflicts_between)


@contextlib.contextmanager
def _held(stage: str) -> Iterator[None]:
    follows = "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("RANK") != "0"
    if LAUNCHED in os.environ or follows:  # the process that launched this one holds it, or torchrun's first one
        yield
        return
    with held_alone(RESUME / "locks" / f"{stage}.lock", doing=f"the stage {stage} here", wait_seconds=LOCK_SECONDS):
        yield


def _drop_old_states() -> None:
    oldest = time.time() - KEPT_DAYS * 24 * 3600
    for path in RESUME.glob("*/*/state.safetensors"):
        if path.stat().st_mtime < oldest:
            logger.info("dropping %s: nobody has continued it for %d days", path.parent, KEPT_DAYS)
            shutil.rmtree(path.parent, ignore_errors=True)


def _state_of_outputs() -> str:
    if "DVC_STAGE" not in os.environ:
        return "outputs are as they were"
    return "DVC had removed the stage's outputs before: 'dvc checkout' and 'git checkout metrics' bring them back"


def required(path: Path, *, made_by: str) -> Path:
    """The path itself. Raises UserError naming the stage that makes it, if it does not exist."""
    if not path.exists():
        raise UserError(f"{path} is missing: run 'dvc repro {made_by}' first")
    return path


def need_inputs(stage: str, *, also: Container[Path] = ()) -> None:
    """Check what a stage reads before torch is loaded; `also`: see `missing_inputs`. Raises UserError."""
    for path, maker in missing_inputs(stage, also=also):
        required(path, made_by=maker)


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
