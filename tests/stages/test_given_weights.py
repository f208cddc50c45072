"""Trainings that begin with weights from elsewhere, and the command that reads official checkpoints."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support.pipeline import run_small, small_card, small_project
from yolov6core.base.checkpoint import load_checkpoint
from yolov6core.models.blocks import deploy_
from yolov6core.models.detector import build_detector
from yolov6core.models.variants import VARIANTS
from yolov6core.tasks.networks import save_float

CLASSES = 5  # of the drawn sample
TRAINED = Path("artifacts/train/weights.safetensors")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A folder with a dataset of five classes, and no scales."""
    with small_project(tmp_path_factory.mktemp("given"), images=12) as folder:
        return folder


@pytest.fixture
def project(prepared, monkeypatch) -> Path:
    monkeypatch.chdir(prepared)
    return prepared


def weights_file(path: Path, *, classes: int, block: str = "repvgg", aux_head: str = "none", seed: int = 0) -> dict:
    torch.manual_seed(seed)
    model = build_detector(VARIANTS["test"], num_classes=classes, block=block, aux_head=aux_head)
    torch.save(model.state_dict(), path)
    return model.state_dict()


@pytest.mark.slow
def test_no_epochs_take_the_weights_as_they_are(project):
    expected = weights_file(project / "a.pt", classes=CLASSES, aux_head="anchors")
    result = run_small("train-repopt", train={"block": "repvgg", "weights": "a.pt", "epochs": 0})
    assert result.exit_code == 0, result.output
    tensors, meta = load_checkpoint(TRAINED)
    assert meta["block"] == "repvgg" and not any(name.startswith("head.aux_head") for name in tensors)
    assert all(torch.equal(tensors[name], expected[name]) for name in tensors)
    assert set(json.loads(Path("metrics/train.json").read_text())) == {"map50_95", "map50"}
    for folder in ("train", "scales"):  # plots name these files
        assert Path(f"artifacts/{folder}/epochs.csv").read_text() == "epoch,total\n"
        assert Path(f"artifacts/{folder}/selection.csv").read_text() == "epoch,map50_95\n"


@pytest.mark.slow
def test_folded_weights_are_used_but_not_trained(project):
    network = deploy_(build_detector(VARIANTS["test"], num_classes=CLASSES).eval())
    card = replace(small_card(tuple("abcde")), deployed=True)
    save_float(project / "folded.safetensors", network, card)
    train = {"weights": "folded.safetensors", "epochs": 0}
    assert run_small("train-repopt", train=train).exit_code == 0
    assert load_checkpoint(TRAINED)[1]["deployed"] is True
    assert run_small("ptq-calib").exit_code == 0
    result = run_small("train-repopt", train=train | {"epochs": 1})
    assert result.exit_code == 1 and "batch norm is folded" in result.output


@pytest.mark.slow
def test_another_class_count_is_an_error_that_counts_and_a_parameter_that_cures_it(project):
    given = weights_file(project / "seven.pt", classes=7)
    train = {"block": "repvgg", "weights": "seven.pt", "epochs": 1, "lr": 0.0}
    result = run_small("train-repopt", train=train)
    assert result.exit_code == 1
    total = len(given)
    for part in (
        f"{total - 6} of the network's {total} tensors match",
        "6 have another shape",
        "7 classes",
        "reinit",
    ):
        assert part in result.output, result.output
    result = run_small("train-repopt", train=train | {"reinit": ["head.cls_preds.*"]})
    assert result.exit_code == 0, result.output
    tensors, _ = load_checkpoint(TRAINED)
    assert tensors["head.cls_preds.0.weight"].shape[0] == CLASSES
    assert torch.equal(tensors["backbone.stem.dense.conv.weight"], given["backbone.stem.dense.conv.weight"])
    result = run_small("train-repopt", train=train | {"reinit": ["head.class*"]})
    assert result.exit_code == 1 and "'head.class*' fits no tensor" in result.output


@pytest.mark.parametrize(
    ("train", "parts"),
    [
        ({"block": "repopt"}, ["of the network's", "are not in the file", "train.block repvgg"]),
        ({"block": "repvgg", "weights": "absent.pt"}, ["absent.pt does not exist"]),
        ({"block": "repvgg", "weights": "params.yaml"}, ["params.yaml", "not a zip archive"]),
        ({"block": "repvgg", "aux_head": "anchors"}, ["6 of", "head.aux_head"]),
    ],
)
def test_what_does_not_fit_is_named(project, train, parts):
    weights_file(project / "a.pt", classes=CLASSES)
    result = run_small("train-repopt", train={"weights": "a.pt", "epochs": 1} | train)
    assert result.exit_code == 1
    for part in parts[1:] if train.get("aux_head") else parts:
        assert part in result.output, result.output


def test_blocks_of_equal_tensors_and_another_function_are_told_apart(project):
    network = build_detector(VARIANTS["test"], num_classes=CLASSES, block="conv_silu")
    save_float(project / "silu.safetensors", network, small_card(tuple("abcde"), block="conv_silu"))
    train = {"weights": "silu.safetensors", "epochs": 0}
    result = run_small("train-repopt", train=train | {"block": "conv_relu"})
    assert result.exit_code == 1 and "set train.block to conv_silu" in result.output
    assert run_small("train-repopt", train=train | {"block": "conv_silu"}).exit_code == 0


@pytest.mark.slow
def test_anchor_aided_training_ends_in_the_same_engine(project):
    result = run_small("train-repopt", train={"block": "repvgg", "aux_head": "anchors", "epochs": 1})
    assert result.exit_code == 0, result.output
    header = Path("artifacts/train/epochs.csv").read_text().splitlines()[0].split(",")
    assert {"anchor_class", "anchor_iou", "class", "iou"} <= set(header)
    assert any(name.startswith("head.aux_head.cls_preds") for name in load_checkpoint(TRAINED)[0])
    assert run_small("ptq-calib").exit_code == 0
    assert not any("aux_head" in name for name in load_checkpoint(Path("artifacts/ptq/weights.safetensors"))[0])


def test_repopt_without_scales_says_what_to_do(project):
    result = run_small("train-repopt", train={"epochs": 1})
    assert result.exit_code == 1 and "search.scales is none" in result.output


@pytest.mark.slow
def test_import_checkpoint_tells_what_it_found(project):
    weights_file(project / "b.pt", classes=CLASSES, block="repvgg", aux_head="anchors")
    result = run_small("import-checkpoint", "b.pt", "--out", "b.safetensors", "--names", "v,w,x,y,z")
    assert result.exit_code == 0, result.output
    for part in (
        "network: test",
        "block form repvgg",
        "auxiliary head: anchors",
        "all",
        f"classes: {CLASSES}",
        "parameters",
    ):
        assert part in result.output
    train = {"block": "repvgg", "weights": "b.safetensors", "epochs": 0}
    assert run_small("train-repopt", train=train).exit_code == 0


def test_import_checkpoint_turns_a_search_into_scales(project):
    weights_file(project / "search.pt", classes=CLASSES, block="scaled")
    result = run_small("import-checkpoint", "search.pt", "--out", "scales.safetensors")
    assert result.exit_code == 0 and "scales of 20 blocks" in result.output, result.output
    for scales in ("scales.safetensors", "search.pt"):
        assert run_small("search-scales", search={"scales": scales}).exit_code == 0
    kept = load_checkpoint(Path("artifacts/scales/scales.safetensors"))[0]
    assert kept["backbone.stem/dense"].shape == (8,)
    assert run_small("search-scales", search={"scales": "none"}).exit_code == 0


def test_an_unknown_network_is_refused_with_what_differs(project):
    torch.save({"head.cls_preds.0.bias": torch.zeros(CLASSES)}, project / "odd.pt")
    result = run_small("import-checkpoint", "odd.pt")
    assert result.exit_code == 1 and "of no network in the table" in result.output
    result = run_small("import-checkpoint", "odd.pt", "--variant", "yolov6z")
    assert result.exit_code == 1 and "yolov6z" in result.output
