"""What stages read, write and obey, as their help tells it and as `dvc.yaml` has it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stages.__main__ import app
from stages.shared.flow import CONTENTS, FLOW, next_command
from stages.shared.help import value_rows
from stages.shared.paths import PARAMS
from tests.support.pipeline import ROOT, STAGES, committed_params
from yolov6core.base.yaml_text import parse_yaml

PIPELINE = parse_yaml((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


def help_of(stage: str) -> str:
    """The help, with single spaces."""
    result = CliRunner().invoke(app, [stage, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def named(entries: list) -> set[str]:
    """Paths of outputs, with or without settings."""
    return {path for entry in entries for path in (entry if isinstance(entry, dict) else [entry])}


@pytest.mark.parametrize("stage", STAGES)
def test_the_table_of_stages_is_that_of_the_pipeline(stage):
    entry, flow = PIPELINE[stage], FLOW[stage]
    data = {dep for dep in entry["deps"] if not dep.startswith(("stages/", "yolov6core/", "$"))}
    assert {str(path) for path in flow.reads} == data
    written = named(entry["outs"]) | named(entry.get("metrics", []))
    assert {str(path) for path in flow.writes} == {"metrics/eval" if "metrics/eval/" in p else p for p in written}
    tracked = {name.partition(".")[0] for name in entry["params"]}
    assert {flow.section, *flow.others} - {"", "runtime"} == tracked


def test_the_order_is_that_of_the_pipeline():
    assert list(FLOW) == STAGES
    assert next_command("prepare-voc2yolo") == "python -m stages given-files"
    assert next_command("ptq-calib", Path("mine.yaml")) == "python -m stages sensitivity --params mine.yaml"
    assert next_command(STAGES[-1]).startswith("python -m stages infer --engine artifacts/engines/")


@pytest.mark.parametrize("stage", STAGES)
def test_help_tells_files_values_and_comments(stage, monkeypatch):
    monkeypatch.chdir(ROOT)
    text, flow = help_of(stage), FLOW[stage]
    for path in (*flow.reads, *flow.writes):
        assert f" {path} {CONTENTS[path]}" in text
    for key, value in committed_params().get(flow.section, {}).items():
        shown = value if isinstance(value, str) else json.dumps(value)
        assert f" {key}: {shown} " in f"{text} ", f"{key}: {shown}"


def test_help_tells_the_values_of_the_file_that_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("eval:\n  rounds: 12  # of all engines\n  samples: [1, 2]\n")
    text = help_of("eval-trt")
    assert "rounds: 12 of all engines" in text and "samples: [1, 2]" in text
    Path("params.yaml").write_text('{"eval": {"rounds": 13}}')
    assert "rounds: 13" in help_of("eval-trt")
    for content in (b"", b"eval: [", b"eval: 3\n", b"\xff", b"eval:\n", b"eval: {}\n", b"train: {}\n"):
        Path("params.yaml").write_bytes(content)
        assert "params.yaml cannot be read here" in help_of("eval-trt"), content
    Path("params.yaml").unlink()
    assert "params.yaml cannot be read here (FileNotFoundError); run from the project's root" in help_of("eval-trt")


def test_comments_of_trainings_stand_where_the_file_has_them_first():
    rows = dict(value_rows((ROOT / PARAMS).read_text(encoding="utf-8"), "train"))
    assert rows["schedule: cosine"] == "cosine | constant", "the comment of search.schedule"
    assert rows["epochs: 38"].startswith("0: take `weights`"), "its own"
    ptq = dict(value_rows((ROOT / PARAMS).read_text(encoding="utf-8"), "ptq"))
    assert ptq["batch_size: 16"] == "", "no training, so it has no comment of one"


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom stages.__main__ import app\n"
        "try:\n    app(['train-repopt', '--help'])\n"
        "finally:\n    print(sorted({'torch', 'cv2', 'numpy', 'rich', 'pandas'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr.strip() == "[]"
