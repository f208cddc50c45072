"""What `doctor` says of the machine, and of files that DVC stops at."""

from __future__ import annotations

import os

from typer.testing import CliRunner

from stages import doctor
from stages.__main__ import app


def dataset_of(root, tmp_path):
    """The answer of `doctor --dataset` for this `prepare.root`, in a file that holds only what differs."""
    (tmp_path / "own.yaml").write_text(f"prepare: {{root: {root}}}\n")
    return CliRunner().invoke(app, ["doctor", "--dataset", "--params", str(tmp_path / "own.yaml")])


def test_every_runtime_and_the_choice_are_named():
    text = "\n".join(doctor.report())
    for part in ("openvino", "onnxruntime", "tensorrt_rtx", "engine.runtime: auto takes", "INT8:"):
        assert part in text


def test_a_dataset_that_dvc_can_read_is_no_news():
    result = CliRunner().invoke(app, ["doctor", "--dataset"])
    assert result.exit_code == 0 and not result.output


def test_files_that_dvc_stops_at_are_named(tmp_path):
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    (root / "images" / "gone.jpg").symlink_to("nowhere.jpg")
    with open(os.path.join(os.fsencode(root), b"\xff.txt"), "wb"):
        pass
    result = dataset_of(root, tmp_path)
    assert result.exit_code == 1
    assert "images/gone.jpg: link to a file that is not there" in result.output
    assert "\\udcff.txt: a name that is not UTF-8; DVC stops at it; mend or remove it" in result.output


def test_a_root_that_is_not_there_is_named(tmp_path):
    result = dataset_of(tmp_path / "data", tmp_path)
    assert result.exit_code == 1 and "is no folder here; DVC looks for it before any stage runs" in result.output
