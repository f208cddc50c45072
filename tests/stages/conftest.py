"""A detector without weights, for tests of what stands around a network."""

from __future__ import annotations

from types import ModuleType

import pytest

from tests.support import patch_detector


@pytest.fixture(scope="session")
def patches() -> ModuleType:
    """The module `patch_detector`: write_patch_detector, picture, NAMES."""
    return patch_detector
