"""A run of a stage is alone, on parameters and code that stay as they are, and sends nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stages.__main__ import app
from stages.shared import paths, shell
from tests.support.pipeline import ROOT, run_small, small_params, small_project, write_small_params
from yolov6core.base import code_version
from yolov6core.base.locks import held_alone
from yolov6core.training import loop


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    with small_project(tmp_path_factory.mktemp("run"), images=12) as folder:
        assert run_small("train-repopt", train={"block": "conv_relu", "epochs": 1}).exit_code == 0
    return folder


@pytest.fixture
def project(prepared, monkeypatch) -> Path:
    monkeypatch.chdir(prepared)
    return prepared


def edit_while_training(monkeypatch, **changes: dict) -> None:
    """Write other parameters in the first step of the next training."""
    real, done = loop.set_step_, []

    def set_step_(*arguments) -> None:
        if not done:
            done.append(write_small_params(**changes))
        real(*arguments)

    monkeypatch.setattr(loop, "set_step_", set_step_)


TRAIN = {"block": "conv_relu", "epochs": 1}


def test_parameters_edited_while_a_stage_runs_fail_it(project, monkeypatch):
    edit_while_training(monkeypatch, train=TRAIN | {"lr": 0.5}, qat={"epochs": 7})
    result = run_small("train-repopt", train=TRAIN)
    assert result.exit_code == 1
    assert "edited while the stage ran" in result.output and "train.lr: 0.02 -> 0.5" in result.output
    assert "qat.epochs" not in result.output, "the section of another stage"


def test_other_sections_may_be_edited(project, monkeypatch):
    edit_while_training(monkeypatch, train=TRAIN, qat={"epochs": 7}, runtime={"workers": 1})
    result = run_small("train-repopt", train=TRAIN)
    assert result.exit_code == 0, result.output


def test_values_are_given_on_the_command_line_and_in_a_file_of_differences(project):
    write_small_params()
    assert CliRunner().invoke(app, ["detect-cpu", "--set", "ptq.cpu=saturating"]).exit_code == 0
    assert json.loads(paths.CPU.read_text()) == {"asked": "saturating", "meaning": "saturating"}
    Path("mine.yaml").write_text("ptq:\n  cpu: exact\n")
    assert CliRunner().invoke(app, ["detect-cpu", "--params", "mine.yaml"]).exit_code == 0
    assert json.loads(paths.CPU.read_text())["asked"] == "exact"
    assert CliRunner().invoke(app, ["detect-cpu", "--params", "mine.yaml", "--set", "ptq.cpu=auto"]).exit_code == 0
    assert json.loads(paths.CPU.read_text())["asked"] == "auto"


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ("ptq.cpu=nonsense", "ptq.cpu: 'nonsense' is not allowed"),
        ("ptq.cpus=auto", "ptq.cpus: unknown parameter; did you mean 'cpu'?"),
        ("ptqq.cpu=auto", "ptqq: unknown section; did you mean 'ptq'?"),
        ("ptq", "--set 'ptq': give section.key=value, such as qat.epochs=1"),
        ("ptq.cpu", "give section.key=value"),
        ("ptq.cpu=[", "the value is no YAML"),
        ("ptq=auto", "give section.key=value"),
    ],
)
def test_a_wrong_value_on_the_command_line_is_answered(project, change, part):
    write_small_params()
    result = CliRunner().invoke(app, ["detect-cpu", "--set", change])
    assert result.exit_code == 2 and part in result.output, result.output


@pytest.mark.parametrize(
    ("name", "near"), [("train", "train-repopt"), ("exprot-onnx", "export-onnx"), ("qat", "qat-distill")]
)
def test_a_command_that_is_none_is_answered_with_the_nearest(name, near):
    result = CliRunner().invoke(app, [name])
    assert result.exit_code == 2 and f"no such command '{name}'; did you mean {near}" in result.output


def test_the_next_command_is_told_unless_dvc_goes_on(project, monkeypatch):
    write_small_params()
    Path("mine.yaml").write_text("ptq:\n  cpu: exact\n")
    for given, told in (([], ""), (["--params", "mine.yaml"], " --params mine.yaml")):
        said = CliRunner().invoke(app, ["detect-cpu", *given]).output
        assert said.endswith(f"next: python -m stages ptq-calib{told}\n")
    monkeypatch.setattr(shell, "end_with_starter", lambda: None)
    monkeypatch.setenv("DVC_STAGE", "detect-cpu")
    result = CliRunner().invoke(app, ["detect-cpu"])
    assert result.exit_code == 0 and "next: " not in result.output


def test_a_stage_waits_for_another_run_of_it_and_then_refuses(project, monkeypatch):
    monkeypatch.setattr(shell, "LOCK_SECONDS", 0.3)
    with held_alone(paths.RESUME / "locks" / "train-repopt.lock", doing="it"):
        result = run_small("train-repopt", train=TRAIN)
        assert result.exit_code == 1
        assert f"process {os.getpid()} is already at the stage train-repopt here" in result.output
        assert run_small("detect-cpu").exit_code == 0, "another stage is free to run"
    assert run_small("train-repopt", train=TRAIN).exit_code == 0


def test_the_whole_file_is_checked_before_anything_is_computed(project):
    changes = {
        "model": {"variant": "yolov6_lite_s", "image_size": [64, 96]},
        "eval": {"rounds": 0},
        "train": TRAIN,
    }
    result = run_small("prepare-voc2yolo", **changes)
    assert result.exit_code == 2 and "eval.rounds: 0 is not allowed" in result.output
    result = run_small("prepare-voc2yolo", **changes | {"eval": {}})
    assert result.exit_code == 2
    for part in ("model.image_size is [64, 96]; both sides have to be multiples of 64", "train.block is conv_relu"):
        assert part in result.output, result.output


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"model": {"variant": "yolov6z"}}, "model.variant: 'yolov6z' is unknown; choose one of yolov6n, "),
        ({"augment": {"multi_scale": 0.1}}, "augment.multi_scale: a change of 0.1 moves no side of [64, 96]"),
        ({"export": {"image_size": [64, 80]}}, "export.image_size is [64, 80]"),
        ({"qat": {"devices": 3}}, "qat.batch_size is 4; it has to be a multiple of qat.devices (3)"),
        (
            {"train": {"amp": "fp16"}, "runtime": {"device": "cpu"}},
            "train.amp is fp16, which needs runtime.device cuda",
        ),
        ({"model": {"variant": "yolov6m"}, "train": {"aux_head": "distribution"}}, "predicts distance bins itself"),
        (
            {"model": {"variant": "yolov6n6", "image_size": [64, 64]}, "train": {"aux_head": "anchors"}},
            "has no anchors",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_sections_that_do_not_go_together_are_named(project, changes, part):
    result = run_small("eval-trt", **changes)
    assert result.exit_code == 2 and part in result.output, result.output


def test_old_states_go(project):
    old, young = (paths.RESUME / "train-repopt" / name / "state.safetensors" for name in ("0123", "4567"))
    for path in (old, young):
        path.parent.mkdir(parents=True)
        path.touch()
    os.utime(old, (1, 1))
    result = run_small("detect-cpu")
    assert result.exit_code == 0 and "nobody has continued it for 30 days" in result.output
    assert not old.exists() and young.exists()
    listed = CliRunner().invoke(app, ["doctor"]).output
    assert str(young.parent) in listed and str(old.parent) not in listed
    young.unlink()
    young.parent.rmdir()


def test_code_edited_while_a_stage_runs_fails_it(project, monkeypatch):
    real, calls = code_version.source_digests, []

    def source_digests() -> dict[str, str]:
        calls.append(None)
        unused = {"stages/nothing_imports_this.py": str(len(calls))}
        return real() | unused | {"stages/detect_cpu.py": str(len(calls))}

    monkeypatch.setattr(code_version, "source_digests", source_digests)
    monkeypatch.setattr(shell, "source_digests", source_digests)
    result = run_small("detect-cpu")
    assert result.exit_code == 1 and "edited while the stage ran" in result.output
    assert "stages/detect_cpu.py" in result.output and "nothing_imports_this" not in result.output


@pytest.mark.parametrize(
    "stage, missing",
    [
        ("train-repopt", "artifacts/dataset is missing: run 'dvc repro prepare-voc2yolo' first"),
        ("export-onnx", "artifacts/dataset is missing: run 'dvc repro prepare-voc2yolo' first"),
        ("build-trt", "artifacts/onnx is missing: run 'dvc repro export-onnx' first"),
        ("eval-trt", "artifacts/dataset is missing: run 'dvc repro prepare-voc2yolo' first"),
    ],
)
def test_missing_inputs_are_named_before_torch_is_loaded(tmp_path, stage, missing):
    (tmp_path / "params.yaml").write_text(json.dumps(small_params()), encoding="utf-8")
    code = "import sys\nfrom stages.__main__ import app\ntry:\n    app()\nfinally:\n    print('torch' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, stage]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and missing in done.stderr and done.stdout == "False\n", done.stderr
