"""`eval.score_threshold`, `iou_threshold` and `max_detections` reach the mAP of every stage that chooses by it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.pipeline import run_small, small_project
from yolov6core.tasks import evaluation

pytestmark = pytest.mark.slow

LIMITS = {"score_threshold": 0.07, "iou_threshold": 0.4, "max_detections": 17}
STAGES = ("train-repopt", "ptq-calib", "sensitivity", "qat-distill")
SHORT = {
    "train": {"block": "conv_relu", "epochs": 1},
    "ptq": {"percentiles": [99.9], "batch_size": 4},
    "sensitivity": {"images": 2, "max_layers": 1},
    "qat": {"epochs": 1, "close_mosaic_epochs": 0},
}


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, float]]]:
    """Stage -> limits of each of its evaluations."""
    real, found = evaluation.evaluate, {stage: [] for stage in STAGES}
    with small_project(tmp_path_factory.mktemp("limits"), images=12), pytest.MonkeyPatch.context() as patch:
        for stage in STAGES:
            patch.setattr(evaluation, "evaluate", recorded(real, found[stage]))
            result = run_small(stage, **SHORT, eval=LIMITS)
            assert result.exit_code == 0, result.output
    return found


def recorded(real: Callable, rows: list[dict[str, float]]) -> Callable:
    def evaluate(*arguments, **options):
        rows.append({name: options[name] for name in LIMITS})
        return real(*arguments, **options)

    return evaluate


@pytest.mark.parametrize("stage", STAGES)
def test_every_evaluation_obeys_them(used, stage):
    assert len(used[stage]) >= 2, "on select and on val"
    assert all(limits == LIMITS for limits in used[stage]), used[stage]


def test_weights_taken_as_they_are_are_judged_by_them_too(tmp_path, monkeypatch):
    rows: list[dict[str, float]] = []
    with small_project(tmp_path, images=12):
        train = {"block": "conv_relu", "epochs": 1}
        assert run_small("train-repopt", train=train).exit_code == 0
        Path("artifacts/train/weights.safetensors").rename("given.safetensors")
        monkeypatch.setattr(evaluation, "evaluate", recorded(evaluation.evaluate, rows))
        result = run_small("train-repopt", train=train | {"epochs": 0, "weights": "given.safetensors"}, eval=LIMITS)
        assert result.exit_code == 0, result.output
    assert rows == [LIMITS]
