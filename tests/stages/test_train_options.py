"""What the float training can be told to do: optimiser, precision, accumulation, auxiliary heads and teachers."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from stages.shared import paths
from tests.support.pipeline import run_small, small_params, small_project
from yolov6core.base.checkpoint import load_checkpoint, save_checkpoint

pytestmark = pytest.mark.slow

WEIGHTS = Path("artifacts/train/weights.safetensors")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A prepared dataset, no scales, and `teacher.safetensors`: a network whose auxiliary head knows distributions."""
    with small_project(tmp_path_factory.mktemp("options"), images=12) as folder:
        result = train(aux_head="distribution")
        assert result.exit_code == 0, result.output
        assert {"iou", "dfl", "direct_iou"} <= set(last_epoch().index)
        tensors, meta = load_checkpoint(WEIGHTS)
        torch.manual_seed(1)
        for name, tensor in tensors.items():  # an epoch alone teaches nothing that a student could hear
            if "preds" in name or "stems" in name and name.endswith("conv.weight"):
                tensor += torch.randn_like(tensor)
        save_checkpoint(Path("teacher.safetensors"), tensors, meta)
    return folder


@pytest.fixture
def project(prepared, monkeypatch) -> Path:
    monkeypatch.chdir(prepared)
    return prepared


def train(**changes):
    return run_small("train-repopt", train={"block": "conv_relu", "epochs": 1} | changes)


def last_epoch() -> pd.Series:
    return pd.read_csv("artifacts/train/epochs.csv").iloc[-1]


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "adamw", "lr": 0.001, "momentum": 0.9},
        {"batch_size": 2, "nominal_batch_size": 4},
        {"grad_clip_norm": 0.01},
        {"amp": "bf16"},
        {"batch_size": 2, "schedule": "constant"},
    ],
    ids=lambda options: "-".join(options),
)
def test_every_option_trains_other_weights_that_are_finite(project, options):
    assert train().exit_code == 0
    plain, _ = load_checkpoint(WEIGHTS)
    result = train(**options)
    assert result.exit_code == 0, result.output
    tensors, _ = load_checkpoint(WEIGHTS)
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())
    assert any(not torch.equal(tensors[name], plain[name]) for name in tensors)


def test_a_constant_schedule_stays_at_its_rate(project):
    assert train(epochs=2, schedule="constant", warmup_epochs=0).exit_code == 0
    assert last_epoch()["lr"] == pytest.approx(small_params()["train"]["lr"])


def test_a_compiled_training_goes_through_torch_compile(project, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function: compiled.append(function.__name__) or function)
    assert train(compile=True).exit_code == 0
    assert compiled == ["training_output"]


@pytest.mark.parametrize(
    ("options", "code", "part"),
    [
        ({"nominal_batch_size": 6}, 2, "nominal_batch_size is 6; give a multiple of batch_size (4)"),
        ({"aux_head": "anchors", "teacher": "teacher.safetensors"}, 2, "the two are not combined"),
        ({"teacher": "teacher.safetensors", "distill_class": 0, "distill_dfl": 0}, 2, "raise one"),
        ({"amp": "fp16"}, 1, "needs runtime.device cuda (it is cpu)"),
        ({"sync_norm": True}, 1, "several CUDA devices only"),
        ({"teacher": "absent.safetensors"}, 1, "absent.safetensors does not exist"),
        ({"teacher": "params.yaml"}, 1, "params.yaml is not a readable safetensors file"),
        ({"teacher": "teacher.safetensors"}, 1, "distance bins of teacher.safetensors are 16"),
    ],
)
def test_what_does_not_go_is_refused(project, options, code, part):
    result = train(**options)
    assert result.exit_code == code and part in result.output, result.output


def test_a_teacher_of_other_classes_is_refused(project):
    tensors, meta = load_checkpoint(Path("teacher.safetensors"))
    save_checkpoint(Path("other.safetensors"), tensors, meta | {"names": list("vwxyz")})
    result = train(teacher="other.safetensors", aux_head="distribution")
    assert result.exit_code == 1 and "classes of other.safetensors" in result.output
    save_checkpoint(Path("quantized.safetensors"), tensors, meta | {"quant": {"method": "max"}})
    assert "holds no float network" in train(teacher="quantized.safetensors", aux_head="distribution").output


def test_a_student_hears_what_its_teacher_says(project):
    distilled = {"teacher": "teacher.safetensors", "aux_head": "distribution", "distill_features": 1.0}
    assert train(**distilled).exit_code == 0
    afresh = last_epoch()
    assert {"class", "iou", "dfl", "direct_iou", "distill_class", "distill_dfl", "distill_features"} <= set(
        afresh.index
    )
    # A copy of the teacher that does not learn, under the same statistics, has nothing to be told.
    same = {"weights": "teacher.safetensors", "lr": 0.0, "freeze_norm_epochs": 1}
    result = train(**distilled, **same)
    assert result.exit_code == 0, result.output
    for term in ("distill_class", "distill_dfl", "distill_features"):
        assert 0 <= last_epoch()[term] <= 1e-3 * afresh[term], term
    assert afresh["distill_dfl"] > 0.01 and afresh["distill_features"] > 1e-5


def test_a_network_that_stays_without_bins_learns_classes_only(project):
    assert train().exit_code == 0
    WEIGHTS.rename("plain.safetensors")
    assert train(teacher="plain.safetensors").exit_code == 0
    assert "distill_class" in last_epoch() and "distill_dfl" not in last_epoch()


def test_curves_are_drawn_where_they_are_wanted(project, tmp_path):
    pytest.importorskip("tensorboard")
    assert train().exit_code == 0
    plain = WEIGHTS.read_bytes()
    changes = {"search": {"scales": None, "epochs": 1}, "train": {"block": "conv_relu", "epochs": 1}}
    for stage in ("search-scales", "train-repopt"):
        result = run_small(stage, runtime={"tensorboard": str(tmp_path / "curves")}, **changes)
        assert result.exit_code == 0, result.output
        (file,) = (tmp_path / "curves" / stage).rglob("events.out.tfevents*")
        assert b"epoch/total" in file.read_bytes() and b"select/map50_95" in file.read_bytes()
    assert WEIGHTS.read_bytes() == plain, "curves change no byte of the outputs"


def test_curves_without_their_package_stop_the_stage_at_its_start(project, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    before = WEIGHTS.stat().st_mtime_ns if WEIGHTS.exists() else None
    result = run_small("train-repopt", runtime={"tensorboard": "curves"})
    assert result.exit_code == 1 and "pip install -e '.[tensorboard]'" in result.output
    assert (WEIGHTS.stat().st_mtime_ns if WEIGHTS.exists() else None) == before and not Path("curves").exists()


def test_diverse_branches_are_trained_stored_and_quantized(project):
    result = train(block="dbb")
    assert result.exit_code == 0, result.output
    tensors, meta = load_checkpoint(WEIGHTS)
    assert meta["block"] == "dbb" and "backbone.stem.sequence_pointwise.conv.weight" in tensors
    assert run_small("ptq-calib").exit_code == 0
    stored, _ = load_checkpoint(paths.WEIGHTS["ptq"])
    assert not any("sequence_" in name or "mean_" in name for name in stored), "one convolution is left of a block"
    WEIGHTS.rename("given.safetensors")
    result = train(weights="given.safetensors", block="repvgg")
    assert result.exit_code == 1 and "with train.block dbb" in result.output
    assert train(weights="given.safetensors", block="dbb").exit_code == 0
