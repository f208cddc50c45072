"""Benchmarks are run by hand; what they import has to exist all the same."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

from tests.support.pipeline import ROOT

SCRIPTS = sorted((ROOT / "benchmarks").glob("*.py"))


def imported(path: Path) -> list[tuple[str, str]]:
    """(module, name) of every import from this project, also of code that a script keeps as text."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    trees = [tree]
    for text in texts:
        if "\nfrom yolov6core" in text:
            trees.append(ast.parse(text))
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    ours = [node for node in nodes if node.module.split(".")[0] in ("yolov6core", "stages")]
    return [(node.module, alias.name) for node in ours for alias in node.names]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_what_a_benchmark_imports_exists(path):
    for module, name in imported(path):
        found = importlib.import_module(module)
        if not hasattr(found, name):
            importlib.import_module(f"{module}.{name}")
