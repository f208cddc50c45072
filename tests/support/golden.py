"""Recorded data outside the repository: in `$YOLOV6_SHARED`, or in `../shared` beside the project."""

from __future__ import annotations

import os
from pathlib import Path

SHARED = Path(os.environ.get("YOLOV6_SHARED", Path(__file__).parents[3] / "shared"))
GOLDEN = SHARED / "golden"


def golden_files(pattern: str) -> list[str]:
    """Names of the golden files that match; one absent name where there are none, so that the test shows as skipped."""
    return sorted(path.name for path in GOLDEN.glob(pattern)) or [f"absent:{pattern}"]
