"""Where and by what a run was measured: machine, versions, runtimes and the commit of the code."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from dataclasses import asdict
from importlib import metadata
from typing import Any

import torch

from yolov6core.base.code_version import PACKAGES as CODE
from yolov6core.base.code_version import ROOT, source_digests
from yolov6core.engines.cpu import cpu_facts, integer_arithmetic
from yolov6core.engines.registry import survey
from yolov6core.serving.doctor import PACKAGES


def environment() -> dict[str, Any]:
    """Facts for a JSON file; null where something is unknown or missing."""
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu": cpu_facts().get("model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "int8": integer_arithmetic().describe(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "packages": {name: _version(name) for name in PACKAGES},
        "runtimes": [asdict(found) for found in survey()],
        "code": hashlib.sha256(json.dumps(source_digests(), sort_keys=True).encode()).hexdigest()[:16],
    } | _commit()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> dict[str, Any]:
    """`commit`, and whether the code was `edited` since; null outside of a Git checkout, or without Git."""
    commit = _git("rev-parse", "HEAD")
    return {"commit": commit, "edited": None if commit is None else bool(_git("status", "--porcelain", "--", *CODE))}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
