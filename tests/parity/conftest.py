"""Fixtures of recorded data, see `tests.support.golden`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.support.golden import GOLDEN, SHARED
from yolov6core.data.dataset import DetectionDataset
from yolov6core.datasets.coco import read_coco
from yolov6core.datasets.write import write_dataset


@pytest.fixture(scope="session")
def golden() -> Callable[[str], tuple[np.lib.npyio.NpzFile, dict]]:
    """`golden(name)` gives arrays and meta data of one file (a JSON file is all meta data), or skips the test."""

    def load(name: str) -> tuple[np.lib.npyio.NpzFile, dict]:
        path = GOLDEN / name
        if not path.is_file():
            pytest.skip(f"golden file {path} is absent; set YOLOV6_SHARED to the folder that holds golden/")
        if path.suffix == ".json":
            return {}, json.loads(path.read_text(encoding="utf-8"))
        arrays = np.load(path, allow_pickle=False)
        return arrays, json.loads(str(arrays["meta_json"])) if "meta_json" in arrays.files else {}

    return load


@pytest.fixture
def coco128(tmp_path: Path) -> DetectionDataset:
    """All 128 images as a split, in a folder of the test's own."""
    root = SHARED / "data" / "coco128"
    if not root.is_dir():
        pytest.skip(f"{root} is absent; set YOLOV6_SHARED to the folder that holds data/")
    source = read_coco(str(root))
    assert source.names is not None and len(source.names) == 80
    write_dataset(tmp_path, {"val": source.splits["all"]}, source.names)
    (tmp_path / "dataset.yaml").write_text(json.dumps({"names": source.names}), encoding="utf-8")
    return DetectionDataset(tmp_path, "val")
