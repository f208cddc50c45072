"""Fixtures of the tests of bundles."""

from __future__ import annotations

from tests.support.bundles import bundle_project, in_bundle_project
from tests.support.fixtures import one_thread

__all__ = ["bundle_project", "in_bundle_project", "one_thread"]
