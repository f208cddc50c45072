"""`bundle`: the command on a small project."""

from __future__ import annotations

import pytest
from click.testing import Result
from typer.testing import CliRunner

from stages.__main__ import app

pytestmark = pytest.mark.usefixtures("in_bundle_project")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["bundle", *arguments], catch_exceptions=False)


def test_a_bundle_follows_the_parameters(bundle_project):
    result = run(
        "--kind", "qat", "--target", "openvino", "--set", "export.dynamic_batch=true", "--set", "engine.max_batch=9"
    )
    assert result.exit_code == 0, result.output
    folder = bundle_project / "artifacts" / "bundle" / "qat-openvino"
    assert "max_batch_size: 9" in (folder / "triton" / "test_qat" / "config.pbtxt").read_text()
    assert (folder / "check.py").is_file()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--kind", "int8", "--target", "openvino"), "--kind int8 is unknown; choose one of float, ptq, partial, qat"),
        (
            ("--kind", "qat", "--target", "trt"),
            "--target trt is unknown; choose one of tensorrt, openvino, onnxruntime",
        ),
        (("--kind", "ptq", "--target", "openvino"), "run 'dvc repro ptq-calib' first"),
        (("--kind", "qat", "--target", "openvino", "--out", "params.yaml"), "params.yaml is a file"),
    ],
)
def test_wrong_requests_are_answered(arguments, message):
    result = run(*arguments)
    assert result.exit_code == 1 and message in result.output
