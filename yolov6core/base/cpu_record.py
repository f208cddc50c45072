"""The file that tells which integer sums INT8 is made for: `detect-cpu` writes it, calibrations and imports read it."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

from yolov6core.base.atomic import write_json
from yolov6core.base.errors import UserError
from yolov6core.base.saturation import CpuSums


def write_record(path: Path, *, asked: str, sums: CpuSums) -> None:
    """Write what was asked for, `auto` or a kind of sums, and the kind that it means on this machine."""
    write_json(path, {"cpu": asked, "sums": sums})


def read_record(path: Path) -> tuple[str, CpuSums]:
    """(asked, sums) of `write_record`.

    Raises:
        UserError: the file holds something else.
    """
    with suppress(OSError, ValueError, TypeError, KeyError):
        record: Any = json.loads(path.read_text(encoding="utf-8"))
        if record["sums"] in get_args(CpuSums):
            return str(record["cpu"]), record["sums"]
    raise UserError(f"{path} does not say exact or saturating sums: run 'dvc repro detect-cpu' again")
