"""Small projects, and a detector without weights for tests of what stands around a network."""

from __future__ import annotations

from types import ModuleType

import pytest

from tests.support import patch_detector
from tests.support.bundles import bundle_project, in_bundle_project
from tests.support.exported import built, exported, here

__all__ = ["built", "bundle_project", "exported", "here", "in_bundle_project"]


@pytest.fixture(scope="session")
def patches() -> ModuleType:
    """The module `patch_detector`: write_patch_detector, picture, NAMES."""
    return patch_detector
