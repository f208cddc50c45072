"""All stages in a row, as `dvc repro` runs them, on a dozen drawn images and the smallest network."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.testing import CliRunner

from stages.__main__ import app
from tests.support.browser import outside_resources
from tests.support.pipeline import ROOT, STAGES, small_params
from yolov6core.base.yaml_text import parse_yaml
from yolov6core.training import fit

pytestmark = pytest.mark.slow


RUN = """
import json, os, socket, sys

def refuse(*arguments, **_):
    print("NETWORK", arguments, flush=True)
    raise OSError("no network")

socket.getaddrinfo = socket.create_connection = refuse
real = socket.socket.connect
socket.socket.connect = lambda self, address: refuse(address) if self.family != socket.AF_UNIX else real(self, address)
from stages.__main__ import app
for command in json.loads(sys.argv[1]):
    if app(command, prog_name="python -m stages", standalone_mode=False):
        sys.exit(f"{command} failed")
print("TELEMETRY", sys.modules.get("openvino_telemetry"), flush=True)
"""
"""A process that runs commands in a row and opens no connection."""


class Run(NamedTuple):
    """A folder in which every stage has run once, in one process, and what that process printed."""

    folder: Path
    stdout: str


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("project")
    (folder / "params.yaml").write_text(json.dumps(small_params()), encoding="utf-8")
    draw = ["draw-sample", "--root", "data/sample_voc", "--images", "16", "--seed", "20240"]
    commands = [draw, *([stage] for stage in STAGES)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HOME": str(folder.with_name("home"))}
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(commands)], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return Run(folder, done.stdout)


@pytest.fixture(scope="module")
def project(run) -> Path:
    return run.folder


def test_no_stage_opens_a_connection(run):
    assert "NETWORK" not in run.stdout and "TELEMETRY None" in run.stdout, run.stdout
    assert not list(run.folder.with_name("home").rglob("*telemetry*")), "no client id is written"


def outs_of_dvc_yaml() -> list[str]:
    stages = parse_yaml((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    entries = [entry for stage in stages.values() for entry in (*stage["outs"], *stage.get("metrics", []))]
    return [path for entry in entries for path in ([entry] if isinstance(entry, str) else entry)]


def test_every_out_of_dvc_yaml_is_written_and_nothing_is_left_over(project):
    assert [out for out in outs_of_dvc_yaml() if not (project / out).exists()] == []
    assert list(project.rglob("*.tmp")) == [], "temporary files are renamed or removed"
    left = [path for path in (project / ".ckpt").rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert left == [], "a finished run leaves no state"


def test_metrics_have_the_same_names_and_are_numbers(project):
    kinds = {path.stem: json.loads(path.read_text()) for path in (project / "metrics/eval").glob("*.json")}
    assert set(kinds) == {"float", "naive", "ptq", "partial", "qat"}
    for name, values in kinds.items():
        assert {"map50_95", "map50", "latency_ms", "size_mb", "speedup"} == set(values), name
        assert all(type(value) in (int, float) for value in values.values()), name
        assert 0 <= values["map50_95"] <= values["map50"] <= 1


def test_int8_engines_execute_int8_convolutions(project):
    counts = {
        name: json.loads((project / f"artifacts/engines/{name}/engine.json").read_text())["int8_convs"]
        for name in ("float", "ptq", "qat")
    }
    assert counts["float"] == 0 and counts["ptq"] == counts["qat"] > 30


def test_the_report_shows_the_run(project):
    page = (project / "artifacts/report/index.html").read_text(encoding="utf-8")
    assert len(page) < 5e6, "small enough to mail"
    assert outside_resources(page) == []
    for text in ("qat", "sum of the weighted losses", "ptq.trt.onnx", "qat.epochs", "shapes_"):
        assert text in page, text


def test_plots_name_files_and_columns_that_exist(project):
    plots = parse_yaml((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["plots"]
    for plot in plots:
        if isinstance(plot, str):
            assert (project / plot).exists(), plot
            continue
        (settings,) = plot.values()
        for path, column in settings["y"].items():
            with open(project / path, newline="", encoding="utf-8") as handle:
                header = next(csv.reader(handle))
            assert column in header and settings["x"] in header, f"{path}: {column}, {settings['x']} not in {header}"


WITHOUT_DATASET = {
    "search-scales": "prepare-voc2yolo",
    "train-repopt": "prepare-voc2yolo",
    "build-trt": "export-onnx",
    "eval-trt": "prepare-voc2yolo",
    "report": "prepare-voc2yolo",
}
"""Stage -> the one that makes what it misses."""
WITH_DATASET = dict.fromkeys(("ptq-calib", "sensitivity", "qat-distill", "export-onnx"), "train-repopt")


@pytest.mark.parametrize("there, makers", [([], WITHOUT_DATASET), (["artifacts/dataset"], WITH_DATASET)])
def test_a_missing_input_names_the_stage_that_makes_it(tmp_path, monkeypatch, there, makers):
    (tmp_path / "params.yaml").write_text(json.dumps(small_params()), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for folder in there:
        Path(folder).mkdir(parents=True)
    for stage, maker in makers.items():
        result = CliRunner().invoke(app, [stage])
        assert result.exit_code == 1, stage
        assert f"dvc repro {maker}" in result.output, result.output


def stop_in_the_second_epoch() -> None:
    """Run train-repopt until its second epoch has been logged and not yet been saved."""
    real = fit._log_epoch

    def interrupt(row, *rest):
        real(row, *rest)
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "_log_epoch", interrupt)
        assert CliRunner().invoke(app, ["train-repopt"]).exit_code != 0


def test_other_labels_are_another_training(project, monkeypatch):
    monkeypatch.chdir(project)
    stop_in_the_second_epoch()
    labels = project / "artifacts/dataset/annotations/instances_train.json"
    text = labels.read_text()
    labels.write_text(text + "\n")
    try:
        assert "continuing after epoch" not in CliRunner().invoke(app, ["train-repopt"], catch_exceptions=False).output
    finally:
        labels.write_text(text)
    assert "continuing after epoch 1" in CliRunner().invoke(app, ["train-repopt"], catch_exceptions=False).output


def test_training_again_gives_the_same_bytes_after_an_interruption(project, monkeypatch):
    monkeypatch.chdir(project)
    weights = project / "artifacts/train/weights.safetensors"
    first = weights.read_bytes()
    stop_in_the_second_epoch()
    assert weights.read_bytes() == first, "an interrupted run leaves the old outputs"
    weights.unlink()
    assert CliRunner().invoke(app, ["train-repopt"], catch_exceptions=False).exit_code == 0
    assert weights.read_bytes() == first
