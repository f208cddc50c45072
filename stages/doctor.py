"""`doctor`: what is installed here, and which trainings were interrupted (not a stage of the pipeline)."""

from __future__ import annotations

from datetime import datetime

from stages.shared.paths import RESUME
from stages.shared.shell import KEPT_DAYS
from yolov6core.serving.doctor import installation


def report() -> list[str]:
    """The lines that `doctor` prints."""
    lines = [*installation(), "Interrupted runs"]
    states = sorted(path for path in RESUME.glob("*/*") if path.parent.name not in ("locks", "build-trt"))
    for path in states:
        when = datetime.fromtimestamp(path.stat().st_mtime).isoformat(sep=" ", timespec="minutes")
        lines.append(f"  {path}  {when}; the same command continues it, else it goes after {KEPT_DAYS} days")
    return lines if states else [*lines, "  none"]
