"""Commands that write where the user says replace no file of anybody else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from stages.shared import paths
from tests.support.pipeline import run_small, small_card, write_float
from yolov6core.int8.quantized_networks import load_quantized, save_quantized
from yolov6core.models.detector import build_detector
from yolov6core.models.variants import VARIANTS
from yolov6core.quant.insert import insert_quantizers, quantized_convolutions, set_ranges_, state_of
from yolov6core.tasks.networks import load_float


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    write_float(small_card(tuple("abcde")), torch.rand(2, 3, 64, 64))
    state = build_detector(VARIANTS["test"], num_classes=5, block="repvgg").state_dict()
    torch.save(state, "b.pt")
    return tmp_path


def write_ptq() -> None:
    network, card = load_float(paths.WEIGHTS["float"])
    model = insert_quantizers(network)
    set_ranges_(model, {name: (0.0, 4.0) for name in state_of(model).groups.sources})
    for conv in quantized_convolutions(model):
        conv.freeze_ranges_()
    save_quantized(paths.WEIGHTS["ptq"], model, card, method="max")


def test_import_checkpoint(project):
    before = Path("b.pt").read_bytes()
    result = run_small("import-checkpoint", "b.pt", "--out", "b.pt")
    assert result.exit_code == 1 and "source itself" in result.stderr and Path("b.pt").read_bytes() == before
    Path("mine.safetensors").write_bytes(b"mine")
    result = run_small("import-checkpoint", "b.pt", "--out", "mine.safetensors")
    assert result.exit_code == 1 and "is not overwritten" in result.stderr
    assert Path("mine.safetensors").read_bytes() == b"mine"
    for _ in range(2):  # the same again is no other file
        result = run_small("import-checkpoint", "b.pt", "--out", "again.safetensors")
        assert result.exit_code == 0, result.output
    for out in (".", "b.pt/x.safetensors"):
        assert run_small("import-checkpoint", "b.pt", "--out", out).exit_code == 1
    for size in ("100", "0", "-32", "16", "1000000000"):
        result = run_small("import-checkpoint", "b.pt", "--out", "size.safetensors", "--image-size", size)
        assert result.exit_code == 1 and f"--image-size is {size}; a multiple of 32" in result.stderr
    assert not Path("size.safetensors").exists()


def test_ranges_go_out_and_come_back(project):
    write_ptq()
    result = run_small("export-ranges", "ptq", "--out", "ranges.safetensors")
    assert result.exit_code == 0, result.output
    assert run_small("export-ranges", "ptq", "--out", "ranges.safetensors").exit_code == 0
    result = run_small("export-ranges", "ptq", "--out", "b.pt")
    assert result.exit_code == 1 and "is not overwritten" in result.stderr

    paths.CPU.write_text(json.dumps({"asked": "auto", "meaning": "saturating"}))
    result = run_small("import-ranges", "ranges.safetensors")
    assert result.exit_code == 0, result.output
    model, card = load_quantized(paths.WEIGHTS["ptq"])
    floats, total = len(state_of(model).float_layers), len(quantized_convolutions(model))
    assert 0 < floats < total and state_of(model).cpu == "saturating"
    assert f"ranges of {total - floats} of {total} convolutions taken, for saturating sums" in result.output
    assert f"{floats} convolutions stay float because the file has no ranges of them" in result.output
    assert "dvc commit -f ptq-calib" in result.output and "metrics/ptq.json is still of the former run" in result.output
    assert card.quantization is not None and card.quantization.method == "imported"

    Path("docs").mkdir()
    Path("docs/thesis.txt").write_text("mine")
    for out, message in (("docs", "thesis.txt"), (".", "would be lost"), ("b.pt", "is a file")):
        result = run_small("import-ranges", "ranges.safetensors", "--out", out)
        assert result.exit_code == 1 and message in result.stderr
    assert Path("docs/thesis.txt").read_text() == "mine"
    paths.CPU.write_text("[]")
    result = run_small("import-ranges", "ranges.safetensors")
    assert result.exit_code == 1 and "dvc repro detect-cpu" in result.stderr
