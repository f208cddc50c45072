"""A detector without weights, for tests of what stands around a network."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def patches() -> ModuleType:
    """The module `patch_detector`: write_patch_detector, picture, NAMES."""
    spec = importlib.util.spec_from_file_location("patch_detector", Path(__file__).with_name("patch_detector.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
