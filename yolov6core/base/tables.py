"""Tables as CSV files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from yolov6core.base.atomic import write_text
from yolov6core.base.inputs import harmless_cell


def rows_text(rows: Sequence[Mapping[str, Any]], *, columns: Sequence[str] | None = None, digits: int = 6) -> str:
    """Rows as the text of a CSV file, as `write_rows` writes them."""
    safe = [{key: harmless_cell(value) for key, value in row.items()} for row in rows]
    frame = pd.DataFrame(safe, columns=None if columns is None else list(columns))
    return frame.round(digits).to_csv(index=False)


def write_rows(
    path: Path, rows: Sequence[Mapping[str, Any]], *, columns: Sequence[str] | None = None, digits: int = 6
) -> None:
    """Rows as CSV, floats rounded; a key that a row lacks leaves its cell empty, and no text becomes a formula.

    Args:
        columns: names and order; None: as the keys come.

    Raises:
        UserError: the disk is full.
    """
    write_text(path, rows_text(rows, columns=columns, digits=digits))
