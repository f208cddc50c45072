"""The example of a network that is not ours runs from training to engines; it stays within sixty lines."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from tests.support.dataset_folder import make_dataset
from tests.support.pipeline import ROOT
from yolov6core.engines.registry import RUNTIMES
from yolov6core.engines.runtime import BuildSettings, RuntimeMissing
from yolov6core.exchange.graph_view import count_quantized, integer_types

SOURCE = ROOT / "examples" / "foreign_network"
CONVOLUTIONS = {0: 1, 1: 1, 2: 5, 3: 1, 4: 7, 5: 1, 6: 9, 7: 1, 8: 5, 9: 2, 10: 1, 13: 5, 14: 1, 17: 5, 18: 1, 20: 5}
CONVOLUTIONS |= {21: 1, 23: 5, 24: 3}
"""Number of a block -> its convolutions."""


def test_it_is_short():
    assert len((SOURCE / "quantize.py").read_text(encoding="utf-8").splitlines()) <= 60


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What it prints on six pictures, and its folder."""
    root = tmp_path_factory.mktemp("foreign")
    (root / "artifacts").mkdir()
    make_dataset(root, splits=("train", "select", "calib", "val")).rename(root / "artifacts" / "dataset")
    result = subprocess.run(
        [sys.executable, str(SOURCE / "quantize.py"), "out", "1", "1"],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout, root / "out"


@pytest.mark.slow
def test_every_block_is_ranked_and_every_step_has_its_figure(run):
    text, _ = run
    ranked = re.findall(r"^Top(\d+): leave (model\.\d+) float, mAP (0\.\d{4})$", text, re.MULTILINE)
    assert [int(place) for place, _, _ in ranked] == list(range(19)), text
    assert {block for _, block, _ in ranked} == {f"model.{number}" for number in CONVOLUTIONS}
    figures = [float(figure) for _, _, figure in ranked]
    assert figures == sorted(figures, reverse=True)
    for step in ("float", "PTQ", "partial", "QAT", "engine"):
        assert re.search(rf"^{step}: mAP 0\.\d{{4}}", text, re.MULTILINE), step


@pytest.mark.slow
def test_the_chosen_block_is_float_and_all_others_run_in_int8(run):
    text, out = run
    total = sum(CONVOLUTIONS.values())
    left = total - CONVOLUTIONS[int(re.search(r"Top0: leave model\.(\d+) float", text)[1])]
    for dialect, integers in (("openvino", {"fake"}), ("trt", {"int8"})):
        model = onnx.load(out / f"{dialect}.onnx")
        assert count_quantized(model) == (left, total) and integer_types(model) == integers
    assert f"INT8 in {left} of {total} convolutions" in text


@pytest.mark.slow
def test_tensorrt_rtx_builds_the_file_of_tensorrt(run, tmp_path):
    try:
        RUNTIMES["tensorrt_rtx"].version()
    except RuntimeMissing as error:
        pytest.skip(str(error))
    _, out = run
    info = RUNTIMES["tensorrt_rtx"].build(out / "trt.onnx", tmp_path / "rtx", BuildSettings())
    assert info.wanted_int8 > 50 and info.int8_convs >= info.wanted_int8 - 3
