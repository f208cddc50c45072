"""README and dvc.lock say what the committed code and metrics say."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
COLUMNS = ("map50_95", "map50", "latency_ms", "fps", "size_mb", "int8_convs", "speedup")


def committed(path: str) -> str:
    """A file as of the last commit: a run of one's own changes metrics, and that is no fault of the README."""
    result = subprocess.run(["git", "show", f"HEAD:{path}"], cwd=ROOT, capture_output=True, text=True)
    if result.returncode:
        pytest.skip(f"{path} is not in the last commit of a Git checkout")
    return result.stdout


def test_the_table_in_the_readme_is_the_committed_metrics():
    lines = [f"| variant | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for variant in ("float", "ptq", "partial", "qat"):
        row = json.loads(committed(f"metrics/eval/{variant}.json"))
        lines.append(f"| {variant} | " + " | ".join(f"{row[column]:.4g}" for column in COLUMNS) + " |")
    table = re.search(r"<!-- table -->\n(.*?)<!-- /table -->", committed("README.md"), re.DOTALL)[1].strip()
    assert table == "\n".join(lines), "paste this into README.md:\n" + "\n".join(lines)


def test_the_lock_was_made_by_this_code():
    """Every code file of every stage has the hash that dvc.lock recorded when the committed metrics were made."""
    lock = YAML(typ="safe", pure=True).load(committed("dvc.lock"))
    stale = [
        f"{stage}: {dep['path']}"
        for stage, entry in lock["stages"].items()
        for dep in entry["deps"]
        if dep["path"].endswith(".py")
        and hashlib.md5(committed(dep["path"]).encode(), usedforsecurity=False).hexdigest() != dep["md5"]
    ]
    assert not stale, "run dvc repro (or dvc commit, if the change cannot matter) and commit: " + ", ".join(stale)


def test_the_lock_holds_the_committed_parameters():
    lock = YAML(typ="safe", pure=True).load(committed("dvc.lock"))
    params = YAML(typ="safe", pure=True).load(committed("params.yaml"))
    for stage, entry in lock["stages"].items():
        for name, values in entry.get("params", {}).get("params.yaml", {}).items():
            section, _, key = name.partition(".")
            found = params[section][key] if key else params[section]
            assert values == found, f"{stage}: {name} differs from dvc.lock"
