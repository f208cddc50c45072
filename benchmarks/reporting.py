"""What `run_all.py` and `growth.py` share: the machine in a line, Markdown tables, and their place in a page."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from yolov6core.base.atomic import write_text
from yolov6core.base.waiting import busy_cores

ROOT = Path(__file__).parents[1]
QUIET = 0.2
"""So many busy cores are still called a quiet machine."""


def machine(packages: Sequence[str]) -> str:
    """Date, processor, cores, how busy they are, and versions: the line above a table."""
    busy = busy_cores(1.0)
    state = (
        "unknown load" if busy is None else "quiet" if busy < QUIET else f"BUSY: {busy:.1f} cores were in use before"
    )
    found = ", ".join(f"{name} {text}" for name in packages if (text := installed(name)))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    date = datetime.datetime.now(datetime.timezone.utc).date()
    return f"{date}. {processor()}, {cores} cores, {state}. Python {platform.python_version()}, {found}."


def installed(package: str) -> str:
    """Version of a package, '' where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def processor() -> str:
    """Name of the processor, with the model number where Linux tells it: virtual machines often hide the name."""
    facts: dict[str, str] = {}
    path = Path("/proc/cpuinfo")
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    if "model name" not in facts:
        return platform.processor() or platform.machine()
    return f"{facts['model name']} (family {facts.get('cpu family')}, model {facts.get('model')})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    lines = [header, ["---"] * len(header), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def put_into(page: Path, name: str, lines: Sequence[str]) -> None:
    """Replace what stands between `<!-- name -->` and `<!-- /name -->`; SystemExit where the page lacks them."""
    text = page.read_text(encoding="utf-8")
    first, last = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    head, found, rest = text.partition(first)
    _, ended, tail = rest.partition(last)
    if not (found and ended):
        raise SystemExit(f"{page}: nothing was written; it needs a line {first.strip()} and, below it, a line {last}")
    write_text(page, head + first + "\n".join(lines) + "\n" + last + tail)
