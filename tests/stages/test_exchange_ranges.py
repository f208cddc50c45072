"""`export-ranges` and `import-ranges`: ranges leave for other toolkits and come back as the same network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx
import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from stages.__main__ import app
from stages.shared import paths
from tests.support.pipeline import small_card
from tests.support.quantized_start import pixels, write_start
from tests.support.speed import slow_except
from yolov6core.int8.quantized_networks import load_quantized, save_quantized
from yolov6core.models.card import NetworkCard
from yolov6core.quant.insert import (
    QuantizedModel,
    convolution_names,
    describe,
    get_ranges,
    set_dialect_,
    set_float_layers_,
    state_of,
    uncalibrated,
)

PREFIX = {"pytorch-quantization": "_", "modelopt": ""}
"""Style -> what stands before `input_quantizer`."""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a float and a PTQ checkpoint."""
    folder = tmp_path_factory.mktemp("ranges")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_start(small_card(("a", "b")))
    return folder


@pytest.fixture(autouse=True)
def project(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def ptq() -> tuple[QuantizedModel, NetworkCard]:
    """The PTQ network on the grid that other toolkits have."""
    model, card = load_quantized(paths.WEIGHTS["ptq"])
    return set_dialect_(model, "trt"), card


def imported(file: Path, out: Path) -> tuple[QuantizedModel, NetworkCard]:
    result = run("import-ranges", file, "--out", out)
    assert result.exit_code == 0, result.output
    return load_quantized(out / "weights.safetensors")


@torch.no_grad()
def outputs(model: QuantizedModel) -> list[torch.Tensor]:
    return list(model(pixels() / 255))


@pytest.mark.parametrize("style", slow_except(PREFIX, "pytorch-quantization"))
def test_ranges_that_leave_come_back(tmp_path, style):
    result = run("export-ranges", "ptq", "--out", tmp_path / "r.safetensors", "--style", style)
    assert result.exit_code == 0 and f"in the names of {style}" in result.output, result.output
    tensors = load_file(tmp_path / "r.safetensors")
    assert f"{len(tensors)} tensors of ptq" in result.output
    kinds = {name.rpartition(".")[0].rpartition(".")[2] for name in tensors}
    assert kinds == {f"{PREFIX[style]}{what}_quantizer" for what in ("input", "weight")}

    (wanted, _), (again, card) = ptq(), imported(tmp_path / "r.safetensors", tmp_path / "out")
    assert card.quantization is not None and card.quantization.method == "imported"
    assert state_of(again).float_layers == state_of(wanted).float_layers
    found, before = get_ranges(again), get_ranges(wanted)
    read = {row.input_group for row in describe(wanted) if row.quantized}
    assert len(read) > 20
    for group in read:
        peak = pytest.approx(max(-before[group][0], before[group][1]), rel=1e-6)
        assert found[group][1] == peak and (found[group][0] == 0 or -found[group][0] == peak), group

    upsampling = [name for name in convolution_names(again) if name.endswith("upsample.conv")]
    assert len(upsampling) == 2
    for name in convolution_names(again):
        conv, amax = again.get_submodule(name), wanted.get_submodule(name).weight_range()
        if name in upsampling:  # a channel has one range there, and four here
            assert torch.equal(conv.weight_amax, amax.view(-1, 4).amax(1).repeat_interleave(4)), name
            conv.weight_amax.copy_(amax)
        assert torch.equal(conv.weight_amax, amax), name
    for ours, reference in zip(outputs(again), outputs(wanted), strict=True):
        assert torch.equal(ours, reference)


@pytest.mark.slow
def test_layers_that_stay_float_stay_float(tmp_path):
    model, card = load_quantized(paths.WEIGHTS["ptq"])
    set_float_layers_(model, state_of(model).predictions | {"backbone.stem.conv"})
    save_quantized(paths.WEIGHTS["partial"], model, card, method="max")
    assert run("export-ranges", "partial", "--out", tmp_path / "r.safetensors").exit_code == 0
    assert not any(name.startswith("backbone.stem") for name in load_file(tmp_path / "r.safetensors"))
    again, _ = imported(tmp_path / "r.safetensors", tmp_path / "out")
    assert state_of(again).float_layers == state_of(model).float_layers


OFFICIAL = {
    "backbone.stem.rbr_reparam": "backbone.stem.conv",
    "backbone.ERBlock_2.0.rbr_reparam": "backbone.stages.0.0.conv",
    "neck.upsample0.upsample_transpose": "neck.fuse.0.upsample.conv",
    "neck.Rep_p4.conv1.rbr_reparam": "neck.top_down.0.0.conv",
    "detect.stems.1.block.conv": "head.stems.1.conv",
}
"""Layer of the official network -> ours."""


@pytest.mark.parametrize("prefix", ["", "module."])
def test_official_names_are_understood(tmp_path, prefix):
    state = {}
    for index, layer in enumerate(OFFICIAL):
        state[f"{prefix}{layer}._input_quantizer._amax"] = torch.tensor(1.0 + index)
        state[f"{prefix}{layer}._weight_quantizer._amax"] = torch.tensor(0.25 + index)
    torch.save({"model": state}, tmp_path / "official.pt")
    model, _ = imported(tmp_path / "official.pt", tmp_path / "out")
    assert set(convolution_names(model)) - state_of(model).float_layers == set(OFFICIAL.values())
    for index, name in enumerate(OFFICIAL.values()):
        assert torch.all(model.get_submodule(name).weight_amax == 0.25 + index), name
    assert {high for _, high in get_ranges(model).values()} >= {1.0 + index for index in range(len(OFFICIAL))}


def wrong_files(folder: Path) -> None:
    save_file({"backbone.stem.conv.weight": torch.zeros(2)}, folder / "weights.safetensors")
    torch.save({"backbone.stem.conv.weight": torch.zeros(2)}, folder / "weights.pt")
    names = [f"another.layer._{what}_quantizer._amax" for what in ("input", "weight")]
    save_file({name: torch.ones(()) for name in names}, folder / "another.safetensors")
    save_file({"backbone.stem.conv._input_quantizer._amax": torch.ones(())}, folder / "half.safetensors")
    for name in ("text.safetensors", "text.pt"):
        (folder / name).write_text("no tensors")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("absent.safetensors", "the file does not exist"),
        ("weights.safetensors", "it holds no _amax tensor"),
        ("weights.pt", "it holds no _amax tensor"),
        ("another.safetensors", "no _amax of a convolution of this network"),
        ("half.safetensors", "backbone.stem.conv: has only one of input and weight _amax"),
        ("text.safetensors", "it is no readable safetensors file"),
        ("text.pt", "not a zip archive"),
    ],
)
def test_files_without_ranges_are_refused_in_one_line(tmp_path, file, message):
    wrong_files(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    (out / "ranges.csv").touch()
    refused(run("import-ranges", tmp_path / file, "--out", out), f"{file}: ", message)
    assert [path.name for path in out.iterdir()] == ["ranges.csv"], "what was there is kept"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["float"], "kind 'float' has no ranges; give ptq, partial or qat"),
        (["int4"], "kind 'int4' has no ranges; give ptq, partial or qat"),
        (["qat"], "run 'dvc repro qat-distill' first"),
        (["ptq", "--style", "onnx"], "style 'onnx' is unknown; choose one of pytorch-quantization, modelopt"),
    ],
)
def test_what_cannot_be_exported_is_named_in_one_line(tmp_path, arguments, message):
    refused(run("export-ranges", *arguments, "--out", tmp_path / "r.safetensors"), message)
    assert list(tmp_path.iterdir()) == []


GRIDS = {"aimet": "ort", "ppq": "trt"}
"""Style that names tensors -> the dialect whose ranges it holds."""


@pytest.mark.parametrize("style", slow_except(GRIDS, "aimet"))
def test_ranges_by_tensor_stand_beside_their_network(tmp_path, style):
    out = tmp_path / f"r.{style}"
    result = run("export-ranges", "ptq", "--out", out, "--style", style)
    assert result.exit_code == 0, result.output
    assert (
        f"on the grid of dialect {GRIDS[style]} -> {out}; they are named as in {tmp_path / 'r.onnx'}" in result.output
    )
    model = onnx.load(tmp_path / "r.onnx")
    names = {name for node in model.graph.node for name in (*node.input, *node.output)}
    section = {"aimet": "activation_encodings", "ppq": "act_quant_info"}
    read = set(json.loads(out.read_text())[section[style]])
    assert len(read) > 20 and read <= names


def test_no_foreign_network_is_replaced_by_the_one_beside_ranges(tmp_path):
    (tmp_path / "r.onnx").write_text("of somebody else")
    arguments = ["export-ranges", "ptq", "--style", "aimet", "--out"]
    refused(run(*arguments, tmp_path / "n.onnx"), "the ONNX file gets this name; give another suffix")
    refused(run(*arguments, tmp_path / "r.json"), "r.onnx exists and is no output of this run")
    assert [path.name for path in tmp_path.iterdir()] == ["r.onnx"]


@pytest.mark.slow
def test_imported_ranges_leave_on_the_grid_that_they_have(tmp_path):
    assert run("export-ranges", "ptq", "--out", tmp_path / "r.safetensors").exit_code == 0
    imported(tmp_path / "r.safetensors", paths.QAT)
    result = run("export-ranges", "qat", "--out", tmp_path / "r.encodings", "--style", "aimet")
    assert result.exit_code == 0 and "on the grid of dialect trt" in result.output, result.output
    shutil.rmtree(paths.QAT)


def test_dialects_that_need_more_ranges_than_were_imported_are_told_apart(tmp_path):
    assert run("export-ranges", "ptq", "--out", tmp_path / "r.safetensors").exit_code == 0
    model, _ = imported(tmp_path / "r.safetensors", tmp_path / "out")
    assert uncalibrated(model) == uncalibrated(set_dialect_(model, "openvino")) == []
    missing = uncalibrated(set_dialect_(model, "ort"))
    assert missing and all(get_ranges(model)[name][1] != get_ranges(model)[name][1] for name in missing)
    assert uncalibrated(set_dialect_(ptq()[0], "ort")) == []


def test_a_missing_float_network_names_its_stage(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(run("import-ranges", "r.safetensors"), "run 'dvc repro train-repopt' first")


def refused(result: Result, *parts: str) -> None:
    assert result.exit_code == 1, result.output
    (line,) = result.output.strip().splitlines()
    assert line.startswith("error: ") and all(part in line for part in parts), line
