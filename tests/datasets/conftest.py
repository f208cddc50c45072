"""Fixtures of the tests of datasets."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.params import PrepareParams
from stages.prepare_voc2yolo import prepare_voc2yolo
from tests.datasets.odd_datasets import SECTION
from tests.support.fixtures import make_dataset

__all__ = ["make_dataset"]


@pytest.fixture
def run(tmp_path):
    def prepare(root, **changes):
        params = PrepareParams(**SECTION | {"root": str(root)} | changes)
        figures = prepare_voc2yolo(params, out=tmp_path / "out", metrics=tmp_path / "m.json")
        run.figures = {key: value for key, value in figures.items() if value}
        return {key[8:]: value for key, value in run.figures.items() if key.startswith("problem_")}

    def listed(*splits):
        rows = (row for split in splits for row in (tmp_path / f"out/{split}.txt").read_text().splitlines())
        return sorted(Path(row).stem for row in rows)

    run = prepare
    run.listed, run.out, run.figures = listed, tmp_path / "out", {}
    return run


@pytest.fixture
def root(tmp_path):
    return tmp_path / "set"
