"""Tables as CSV files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from yolov6core.base.atomic import write_text


def write_rows(
    path: Path, rows: Sequence[Mapping[str, Any]], *, columns: Sequence[str] | None = None, digits: int = 6
) -> None:
    """Rows as CSV, floats rounded; a key that a row lacks leaves its cell empty.

    Args:
        columns: names and order; None: as the keys come.

    Raises:
        UserError: the disk is full.
    """
    frame = pd.DataFrame([dict(row) for row in rows], columns=None if columns is None else list(columns))
    write_text(path, frame.round(digits).to_csv(index=False))
