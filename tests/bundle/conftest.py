"""Fixtures of the tests of bundles: a small project, and a fake of TensorRT without a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.bundles import write_bundle_project
from tests.support.fixtures import one_thread

__all__ = ["one_thread"]


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset and checkpoints of kinds float and qat; no test changes them."""
    root = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        write_bundle_project(root)
    return root


@pytest.fixture
def in_project(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Be in the project's folder."""
    monkeypatch.chdir(project)
    yield project
