"""Two processes that share every batch learn what one process learns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from stages.draw_sample import draw_sample
from tests.stages.test_pipeline import ROOT, run_small, small_params
from yolov6core.checkpoint import load_checkpoint


def test_two_processes_equal_one_with_the_whole_batch(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw_sample(Path("data/sample_voc"), images=16)
    # Batch norm uses its stored statistics: those of half a batch are others than those of the whole.
    recipe = {"block": "conv_relu", "epochs": 3, "freeze_norm_epochs": 3, "batch_size": 4}
    for stage in ("prepare-voc2yolo", "search-scales", "train-repopt"):
        result = run_small(stage, search={"scales": "off"}, train=recipe)
        assert result.exit_code == 0, result.output
    alone = results()
    params = small_params()
    params["train"] |= recipe | {"devices": 2}
    Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    command = [sys.executable, "-m", "stages", "train-repopt"]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    together = results()
    assert done.stderr.count("epoch 3/3") == 1, "one process speaks"
    assert not list(Path(".ckpt").rglob("*.safetensors"))
    np.testing.assert_allclose(together[0], alone[0], rtol=1e-4)
    for name, tensor in alone[1].items():
        np.testing.assert_allclose(together[1][name], tensor, rtol=1e-3, atol=1e-4, err_msg=name)
    assert together[2] == pytest.approx(alone[2], abs=1e-4)


def results() -> tuple[pd.DataFrame, dict, dict]:
    """Loss and select mAP of every epoch, weights, val mAP of the last training."""
    weights = load_checkpoint(Path("artifacts/train/weights.safetensors"))[0]
    return pd.read_csv("artifacts/train/epochs.csv"), weights, json.loads(Path("metrics/train.json").read_text())
