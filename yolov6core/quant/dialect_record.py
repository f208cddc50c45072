"""The file that tells which dialect INT8 is judged on: `detect-cpu` writes it, `ptq-calib` reads it."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from yolov6core.base.atomic import write_json
from yolov6core.base.errors import UserError

CHOICES = ("openvino", "ort", "trt")


def write_dialect_record(path: Path, *, asked: str, dialect: str) -> None:
    """Write what was asked for, `auto` or a dialect, and the dialect that it means on this machine."""
    write_json(path, {"asked": asked, "dialect": dialect})


def read_dialect_record(path: Path, *, asked: str) -> str:
    """The dialect of `write_dialect_record`.

    Raises:
        UserError: the file holds something else, or the answer to another question.
    """
    with suppress(OSError, ValueError, TypeError, KeyError):
        record: Any = json.loads(path.read_text(encoding="utf-8"))
        if record["dialect"] in CHOICES and record["asked"] == asked:
            return record["dialect"]
    raise UserError(f"{path} does not say what ptq.dialect {asked} means here: run 'dvc repro detect-cpu' again")
