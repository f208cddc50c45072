"""Fixtures of the tests of bundles: a small project, in which they are made."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.checkpoints import write_checkpoints
from tests.support.pipeline import write_small_params


@pytest.fixture(scope="session")
def bundle_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with parameters, a dataset and checkpoints of kinds float and qat; no test changes them."""
    root = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        write_checkpoints(root, "qat")
        write_small_params()
    return root


@pytest.fixture
def in_bundle_project(bundle_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be in the project's folder."""
    monkeypatch.chdir(bundle_project)
