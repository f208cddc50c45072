"""`given-files`: contents of the files from elsewhere that parameters name, where DVC sees them: a stage depends on the
files that it reads, and on no other that lies beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from stages.shared import paths
from stages.shared.start_line import log_start
from yolov6core.base.atomic import replace_folder, write_json
from yolov6core.base.errors import UserError, logger
from yolov6core.base.own_files import sha256_of


def given_files(named: Mapping[str, Mapping[str, str | None]]) -> None:
    """Write `<stage>.json` for every stage that reads such files: parameter -> SHA-256 of its file, or null.

    Args:
        named: stage -> parameter, as `train.weights` -> path; None where the parameter names no file.

    Raises:
        UserError: a named file does not exist.
    """
    log_start("given-files", device="nothing is computed")
    with replace_folder(paths.GIVEN) as folder:
        for stage, files in named.items():
            write_json(
                folder / f"{stage}.json", {parameter: _digest(parameter, path) for parameter, path in files.items()}
            )
    given = sorted({path for files in named.values() for path in files.values() if path is not None})
    logger.info("files from elsewhere: %s -> %s", ", ".join(given) or "none", paths.GIVEN)


def _digest(parameter: str, path: str | None) -> str | None:
    if path is None:
        return None
    file = Path(path)
    if not file.is_file():
        raise UserError(f"{parameter}: {file} does not exist; put the file there, or set {parameter} to null")
    if not file.resolve().is_relative_to(paths.PRETRAINED.resolve()):
        message = "%s: %s is outside %s, so 'dvc repro' does not notice when the file changes; put it there"
        logger.warning(message, parameter, file, paths.PRETRAINED)
    return sha256_of(file)
