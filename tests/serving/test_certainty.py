"""How sure a comparison is, and where it was made."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from yolov6core.base import code_version
from yolov6core.evaluation.coco_map import coco_metrics
from yolov6core.evaluation.evaluator import EvalResult
from yolov6core.serving import environment as module
from yolov6core.serving.certainty import certainty
from yolov6core.serving.comparison_files import write_detections
from yolov6core.serving.environment import environment

IMAGES = 12
TRUTH = {
    "images": [{"id": image, "width": 100, "height": 100} for image in range(1, IMAGES + 1)],
    "categories": [{"id": 1, "name": "disc"}],
    "annotations": [
        {"id": image, "image_id": image, "category_id": 1, "bbox": [10, 10, 30, 30], "area": 900, "iscrowd": 0}
        for image in range(1, IMAGES + 1)
    ],
}


def result(shift: float) -> EvalResult:
    """Detections that lie beside the truth, further on later images."""
    found = {
        image: np.array([[10 + shift * image / 4, 10, 40, 40, 0.9, 0], [60, 60, 70, 70, 0.15, 0]], dtype=np.float32)
        for image in range(1, IMAGES + 1)
    }
    coco = coco_metrics(TRUTH, found)
    return EvalResult(coco.stats, coco.per_class, found, coco, {})


def test_equal_engines_differ_by_nothing_and_others_by_something():
    rows = certainty(TRUTH, {"float": result(1.0), "same": result(1.0), "other": result(4.0)})
    assert rows["same"] == rows["float"]
    assert rows["same"]["drop_error"] == 0 and rows["same"]["agreement"] == pytest.approx(1)
    assert rows["float"]["map_error"] > 0 < rows["other"]["drop_error"]
    assert rows["other"]["agreement"] < 0.9


def test_without_float_there_is_nothing_to_compare_with():
    assert set(certainty(TRUTH, {"ptq": result(1.0)})["ptq"]) == {"map_error"}


def test_strong_detections_are_written(tmp_path):
    write_detections(tmp_path / "d.csv", {"ptq": result(0.0)})
    table = pd.read_csv(tmp_path / "d.csv")
    assert len(table) == IMAGES and list(table["image"]) == list(range(1, IMAGES + 1))
    assert table.iloc[0].to_dict() == {"kind": "ptq", "image": 1, "class_index": 0, "score": 0.9} | {
        "left": 10,
        "top": 10,
        "right": 40,
        "bottom": 40,
    }


def test_the_environment_names_machine_versions_and_runtimes(tmp_path, monkeypatch):
    facts = environment()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["cores"] >= 1 and facts["packages"]["torch"] and len(facts["code"]) == 16
    assert {found["name"] for found in facts["runtimes"]} >= {"tensorrt", "openvino", "onnxruntime"}
    assert (facts["commit"] is None) == (facts["edited"] is None)
    assert module.ROOT == code_version.ROOT
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert module._commit() == {"commit": None, "edited": None}
