"""Files that tell what `auto` means on a machine: `detect-cpu` writes them, stages that obey it read them."""

from __future__ import annotations

import json
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from yolov6core.base.atomic import write_json
from yolov6core.base.errors import UserError

T = TypeVar("T", bound=str)


def write_meaning(path: Path, *, asked: str, meaning: str) -> None:
    """Write the value of a parameter, `auto` or another, and what it means here."""
    write_json(path, {"asked": asked, "meaning": meaning})


def read_meaning(path: Path, *, parameter: str, allowed: Collection[T], asked: str | None = None) -> T:
    """The meaning of `write_meaning`.

    Args:
        parameter: for the error, as `ptq.cpu`.
        allowed: meanings.
        asked: the present value of the parameter; None takes the meaning of any.

    Raises:
        UserError: the file holds something else, or the meaning of another value.
    """
    with suppress(OSError, ValueError, TypeError, KeyError):
        record: Any = json.loads(path.read_text(encoding="utf-8"))
        if record["meaning"] in allowed and asked in (None, record["asked"]):
            return record["meaning"]
    value = f"{parameter} {asked}" if asked else parameter
    raise UserError(f"{path} does not say what {value} means here: run 'dvc repro detect-cpu' again")
