"""A small dataset folder for the tests of the data package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

_SPEC = importlib.util.spec_from_file_location("dataset_folder", Path(__file__).with_name("dataset_folder.py"))
_MODULE = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_MODULE)


@pytest.fixture
def make_dataset(tmp_path: Path):
    """Writes a dataset folder under `tmp_path` and returns it; see `dataset_folder.make_dataset`."""
    return lambda **options: _MODULE.make_dataset(tmp_path, **options)
