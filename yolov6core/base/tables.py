"""Tables as CSV files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from yolov6core.base.atomic import write_text
from yolov6core.base.inputs import harmless_cell


def write_rows(
    path: Path, rows: Sequence[Mapping[str, Any]], *, columns: Sequence[str] | None = None, digits: int = 6
) -> None:
    """Rows as CSV, floats rounded; a key that a row lacks leaves its cell empty, and no text becomes a formula.

    Args:
        columns: names and order; None: as the keys come.

    Raises:
        UserError: the disk is full.
    """
    safe = [{key: harmless_cell(value) for key, value in row.items()} for row in rows]
    frame = pd.DataFrame(safe, columns=None if columns is None else list(columns))
    write_text(path, frame.round(digits).to_csv(index=False))
