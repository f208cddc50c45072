"""The line that a stage begins with: what it reads, by which versions, on what."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

from stages.shared.flow import FLOW
from yolov6core.base.errors import logger

PROJECT = "yolov6-quant"


def log_start(stage: str, *packages: str, device: str, data: str = "") -> None:
    """Log it, in the first process of a training.

    Args:
        packages: whose versions matter, beside Python and the project.
        device: what the stage computes on, in words.
        data: what it reads beside the folders of the pipeline.
    """
    if os.environ.get("RANK", "0") != "0":
        return
    flow = FLOW[stage]
    sections = ", ".join(filter(None, (flow.section, *flow.others)))
    read = ", ".join(filter(None, (data, *map(str, flow.reads), f"parameters ({sections})")))
    versions = ", ".join(f"{name} {_version(name)}" for name in (PROJECT, *packages))
    logger.info("%s: reads %s", stage, read)
    logger.info("%s, Python %s; %s", versions, platform.python_version(), device)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a copy of the sources that was not installed
        return "(not installed)"
