"""Two processes that share every batch learn what one process learns."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from stages.shared import paths
from tests.support.pipeline import ROOT, run_small, small_card, small_project, write_small_params
from tests.support.quantized_start import write_start
from yolov6core.base.checkpoint import load_checkpoint, save_checkpoint
from yolov6core.base.waiting import OWN_SETTINGS
from yolov6core.data.dataset import DetectionDataset

pytestmark = pytest.mark.slow

SIZES = {"multi_scale": 0.5}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    with small_project(tmp_path_factory.mktemp("devices"), images=16) as folder:
        write_start(small_card(DetectionDataset(paths.DATASET, "train").names))
        tensors, meta = load_checkpoint(paths.WEIGHTS["float"])
        for name, tensor in tensors.items():  # a teacher that is sure of other things than its student
            if "cls_preds" in name:
                tensor += 0.5 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0))
        save_checkpoint(folder / "teacher.safetensors", tensors, meta)
    return folder


def test_two_processes_equal_one_with_the_whole_batch(prepared, monkeypatch):
    monkeypatch.chdir(prepared)
    # Batch norm uses its stored statistics: those of half a batch are others than those of the whole.
    recipe = {"block": "conv_relu", "epochs": 3, "freeze_norm_epochs": 3, "batch_size": 4, "close_mosaic_epochs": 1}
    recipe |= {"rectangular": True}
    result = run_small("train-repopt", train=recipe, augment=SIZES)
    assert result.exit_code == 0, result.output
    alone = results("train")
    said = run_in_processes("train-repopt", train=recipe | {"devices": 2}, augment=SIZES)
    assert said.count("epoch 3/3") == 1, "one process speaks"
    compare(results("train"), alone, rtol=1e-3, atol=1e-4)


def test_torchrun_by_hand_trains_too(prepared, monkeypatch):
    monkeypatch.chdir(prepared)
    write_small_params(train={"block": "conv_relu", "epochs": 1, "batch_size": 4})
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    said = output_of([*torchrun, "-m", "stages", "train-repopt"])
    assert said.count("epoch 1/1") == 1, "one process speaks, and none waits for the other's lock"


FEATURES_ONLY = {"detection": 0.0, "distill_class": 0.0, "distill_box": 0.0, "distill_dfl": 0.0}


@pytest.mark.parametrize(
    "options",
    [{"scales": "fixed"}, {"scales": "learned"}, {"scales": "reestimate"} | FEATURES_ONLY],
    ids=lambda options: options["scales"],
)
def test_two_processes_fine_tune_as_one_does(prepared, monkeypatch, options):
    monkeypatch.chdir(prepared)
    shutil.copy("teacher.safetensors", paths.WEIGHTS["float"])
    # Two steps: in more of them one activation that is rounded the other way sets trainings apart.
    recipe = {"epochs": 1, "close_mosaic_epochs": 0, "warmup_epochs": 0, "batch_size": 4} | options
    result = run_small("qat-distill", qat=recipe, augment=SIZES)
    assert result.exit_code == 0, result.output
    alone = results("qat")
    assert (alone[0].filter(regex="class|iou|distill") > 1e-3).all(axis=None), alone[0]
    start = load_checkpoint(Path("artifacts/ptq/weights.safetensors"))[0]
    assert max(float((tensor - start[name]).abs().max()) for name, tensor in alone[1].items()) > 1e-3
    said = run_in_processes("qat-distill", qat=recipe | {"devices": 2}, augment=SIZES)
    assert said.count("epoch 1/1") == 1, "one process speaks"
    compare(results("qat"), alone, rtol=1e-5, atol=1e-5)


def run_in_processes(stage: str, **changes: dict) -> str:
    """What the stage says, which starts several processes itself."""
    write_small_params(**changes)
    return output_of(["-m", "stages", stage])


def output_of(arguments: list[str]) -> str:
    """What `python ARGUMENTS` says; it leaves no state behind."""
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not list(Path(".ckpt").rglob("*.safetensors"))
    return done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="libgomp is what torch uses on Linux")
@pytest.mark.parametrize("waiting", ["yield", "spin"])
def test_every_process_waits_as_the_stage_has_settled(prepared, monkeypatch, waiting):
    monkeypatch.chdir(prepared)
    for name in OWN_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_DISPLAY_ENV", "VERBOSE")  # libgomp prints what it took when it is loaded
    recipe = {"block": "conv_relu", "epochs": 1, "batch_size": 4, "devices": 2}
    said = run_in_processes("train-repopt", train=recipe, runtime={"waiting": waiting, "workers": 1})
    assert said.count(f"waiting threads {waiting} (runtime.waiting)") == 1
    counts = [line for line in said.splitlines() if "GOMP_SPINCOUNT" in line]
    assert len(counts) >= 3, "the stage and two processes that it started"
    assert all(("'1000'" in line) == (waiting == "yield") for line in counts)


def compare(together: tuple, alone: tuple, **tolerance: float) -> None:
    np.testing.assert_allclose(together[0], alone[0], rtol=1e-4, atol=2e-6)  # six decimals are written
    for name, tensor in alone[1].items():
        np.testing.assert_allclose(together[1][name], tensor, **tolerance, err_msg=name)
    assert together[2] == pytest.approx(alone[2], abs=1e-4)


def results(stage: str) -> tuple[pd.DataFrame, dict, dict]:
    """Loss and select mAP of every epoch, weights, val mAP of the last training."""
    weights = load_checkpoint(Path(f"artifacts/{stage}/weights.safetensors"))[0]
    return pd.read_csv(f"artifacts/{stage}/epochs.csv"), weights, json.loads(Path(f"metrics/{stage}.json").read_text())
