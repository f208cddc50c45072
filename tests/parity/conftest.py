"""Golden tensors lie outside the repository: `$YOLOV6_SHARED/golden`, or `../shared/golden` beside the project."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from yolov6core.data.dataset import DetectionDataset
from yolov6core.datasets.coco import read_coco
from yolov6core.datasets.write import write_dataset

SHARED = Path(os.environ.get("YOLOV6_SHARED", Path(__file__).parents[3] / "shared"))
GOLDEN = SHARED / "golden"


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


def golden_files(pattern: str) -> list[str]:
    """Names of the golden files that match; one absent name where there are none, so that the test shows as skipped."""
    return sorted(path.name for path in GOLDEN.glob(pattern)) or [f"absent:{pattern}"]
