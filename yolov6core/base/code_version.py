"""Which code is at work: digests of the project's sources, and names of runs that change with them."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PACKAGES = ("stages", "yolov6core")


def source_digests() -> dict[str, str]:
    """SHA-256 of every source file of the project, by its path from the folder of the packages."""
    sources = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return {path.relative_to(ROOT).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in sources}


def edited_since(before: dict[str, str]) -> list[str]:
    """Source files that this process has imported and that are others by now than in `before`, sorted."""
    now = source_digests()
    return sorted(name for name in before.keys() & now.keys() if before[name] != now[name] and _is_loaded(name))


def _is_loaded(source: str) -> bool:
    return source.removesuffix(".py").replace("/", ".") in sys.modules


def fingerprint(*parts: Any, files: Iterable[Path] = ()) -> str:
    """Sixteen hex digits that change with the project's code, any of the JSON-serialisable parts, or file contents."""
    digest = hashlib.sha256(json.dumps([source_digests(), *parts], sort_keys=True, default=str).encode())
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
