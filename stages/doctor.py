"""`doctor`: what is installed here, which trainings were interrupted, and files that DVC stops at (not a stage)."""

from __future__ import annotations

import os
from datetime import datetime

from stages.params import PrepareParams
from stages.shared.paths import RESUME
from stages.shared.shell import KEPT_DAYS
from yolov6core.base.inputs import printable
from yolov6core.datasets.annotated import PROBLEM_KINDS
from yolov6core.datasets.places import broken_links
from yolov6core.serving.doctor import installation


def report() -> list[str]:
    """The lines that `doctor` prints."""
    lines = [*installation(), "Interrupted runs"]
    states = sorted(path for path in RESUME.glob("*/*") if path.parent.name not in ("locks", "build-trt"))
    for path in states:
        when = datetime.fromtimestamp(path.stat().st_mtime).isoformat(sep=" ", timespec="minutes")
        lines.append(f"  {path}  {when}; the same command continues it, else it goes after {KEPT_DAYS} days")
    return lines if states else [*lines, "  none"]


def dataset_lines(prepare: PrepareParams) -> list[str]:
    """What `dvc repro` stops at in the dataset's folder before any stage runs; none if it can begin."""
    root = os.path.expanduser(prepare.root)
    if not os.path.isdir(root):
        return [f"prepare.root: {printable(prepare.root)} is no folder here; DVC looks for it before any stage runs"]
    return [f"{printable(p.where)}: {p.detail or PROBLEM_KINDS[p.kind]}; mend or remove it" for p in broken_links(root)]
