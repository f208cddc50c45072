"""Calibration and sensitivity as stages, on a drawn dataset of a few images and a network that was never trained."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from stages import ptq_calib, sensitivity
from stages.detect_cpu import detect_cpu
from stages.draw_sample import draw_sample
from stages.prepare_voc2yolo import prepare_voc2yolo
from stages.shared import paths
from tests.support.pipeline import section, small_card, write_float
from yolov6core.base.checkpoint import load_checkpoint, save_checkpoint
from yolov6core.base.errors import UserError
from yolov6core.data.dataset import DetectionDataset
from yolov6core.int8.quantized_networks import load_quantized, save_quantized
from yolov6core.models.decoded import predictor
from yolov6core.quant.insert import freeze_weight_ranges_, get_ranges, state_of
from yolov6core.quant.sensitivity import OneLayer
from yolov6core.tasks.evaluation import SplitEvaluator
from yolov6core.tasks.networks import load_float

RUNTIME = section("runtime", threads=1)
SENSITIVITY = {
    "metric": "fast",
    "images": 2,
    "batch_size": 4,
    "max_drop": 0.01,
    "max_layers": 3,
    "max_slowdown": None,
    "cost": "macs",
    "float_layers": None,
}


def calibrate(**changes: object) -> None:
    options = {"percentiles": [99.9, 99.99], "cpu": "exact", "batch_size": 4} | changes
    ptq = section("ptq", **options)
    detect_cpu(ptq)
    ptq_calib.ptq_calib(ptq, section("eval"), RUNTIME)


def rank(**changes: object) -> None:
    sensitivity.sensitivity(section("sensitivity", **SENSITIVITY | changes), section("eval"), RUNTIME)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with a small dataset and a float checkpoint, as the stages before leave it."""
    root = tmp_path_factory.mktemp("pipeline")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        draw_sample(root / "voc", images=16, seed=5)
        prepare_voc2yolo(section("prepare", root="voc", calib_images=4, select_fraction=0.2, val_fraction=0.25))
        torch.manual_seed(0)
        names = DetectionDataset(paths.DATASET, "train").names
        write_float(small_card(names), torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(2)))
    return root


@pytest.fixture
def pipeline(workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    return workplace


@pytest.fixture
def scored(monkeypatch):
    """Scores that fall with every quantized layer and with the error, as mAP of a trained network; notes the splits."""
    splits = []
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))

    def evaluate(self, network):
        splits.append(self.dataset.split)
        with torch.no_grad():
            pairs = zip(network(x), load_float(paths.WEIGHTS["float"])[0](x), strict=True)
            error = sum(((ours - reference).norm() / reference.std()).item() for ours, reference in pairs)
        quantized = sum(getattr(module, "active", False) for module in network.modules())
        score = 0.5 - 0.005 * quantized - 1e-4 * min(error, 10.0)
        return SimpleNamespace(stats={"map50_95": score, "map50": 1.5 * score}, detections={}, per_class={})

    monkeypatch.setattr(SplitEvaluator, "__call__", evaluate)
    return splits


def read(path: str) -> dict:
    with open(path, encoding="utf-8") as handle:
        return json.load(handle)


def test_ptq_writes_what_the_next_stages_read(pipeline, scored):
    calibrate()
    assert scored.count("val") == 2, "val is evaluated for the float and the chosen model only"
    methods = read("artifacts/ptq/methods.json")
    compared = {name: figures["map50_95"] for name, figures in methods["select"].items() if name != "float"}
    assert set(compared) == {"mse", "entropy", "percentile_99.9", "percentile_99.99", "max"}
    assert compared[methods["chosen"]] == max(compared.values()) and methods["images"] == 4
    figures = read("metrics/ptq.json")
    assert set(figures) == {"map50_95", "map50"} and 0 < figures["map50_95"] < figures["map50"]
    gm, card = load_quantized(pipeline / "artifacts/ptq/weights.safetensors")
    assert card.quantization.method == methods["chosen"]
    assert all(np.isfinite(bounds).all() for bounds in get_ranges(gm).values())
    histograms = np.load("artifacts/ptq/histograms.npz")
    assert histograms["images.counts"].sum() == 4 * 3 * 64 * 64
    header, *rows = (pipeline / "artifacts/ptq/ranges.csv").read_text().splitlines()
    assert header.startswith("group,method,amin,amax") and len(rows) == 5 * len(get_ranges(gm))


@pytest.mark.slow
def test_ptq_is_reproducible_to_the_byte(pipeline, scored):
    written = []
    for _ in range(2):
        calibrate(**{"method": "mse"})
        written.append({path.name: path.read_bytes() for path in (pipeline / "artifacts/ptq").iterdir()})
    assert written[0] == written[1]


@pytest.mark.slow
def test_too_little_accuracy_warns_or_fails(pipeline, scored, caplog):
    settings = {"method": "max", "min_retention": 1.0}
    with caplog.at_level(logging.WARNING):
        calibrate(**settings)
    assert "less than ptq.min_retention" in caplog.text
    with pytest.raises(UserError, match="qat-distill"):
        calibrate(**settings, on_failure="fail")


@pytest.mark.slow
def test_layers_named_by_pattern_stay_float(pipeline, scored):
    calibrate(**{"method": "max", "float_layers": ["head.stems.*"]})
    gm, _ = load_quantized(pipeline / "artifacts/ptq/weights.safetensors")
    floats = state_of(gm).float_layers - state_of(gm).predictions
    assert floats == {f"head.stems.{level}.conv" for level in range(3)}
    with pytest.raises(UserError, match=r"ptq.float_layers: 'heads\.\*' fits no convolution"):
        calibrate(**{"float_layers": ["heads.*"]})


@pytest.mark.slow
def test_sensitivity_writes_the_partial_model(pipeline, scored):
    calibrate(**{"method": "mse"})
    rank(**{"max_drop": 0.0})
    choice, figures = read("artifacts/sensitivity/keep_float.json"), read("metrics/partial.json")
    assert 1 <= len(choice["float_layers"]) <= 3 and not choice["within_budget"]
    assert figures["map50_95"] >= read("metrics/ptq.json")["map50_95"]
    assert figures["float_layers"] == len(choice["float_layers"])
    gm, card = load_quantized(pipeline / "artifacts/sensitivity/weights.safetensors")
    assert state_of(gm).float_layers == state_of(gm).predictions | set(choice["float_layers"])
    assert card.quantization.method == "mse"
    rows = (pipeline / "artifacts/sensitivity/ranking.csv").read_text().splitlines()
    assert rows[0] == "layer,sensitivity,fast,cost,float"
    assert sum(row.endswith(",1") for row in rows) == len(choice["float_layers"])
    shares = [float(row.split(",")[1]) for row in rows[1:]]
    assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(1, abs=1e-4)
    assert (pipeline / "artifacts/sensitivity/ranking.png").stat().st_size > 1000
    blocks = pd.read_csv("artifacts/sensitivity/blocks.csv", index_col="block")
    assert {"backbone.stem", "backbone.stages.1", "neck.fuse.0", "head.stems.2"} <= set(blocks.index)
    assert blocks["layers"].sum() == len(shares) and blocks["float"].sum() == len(choice["float_layers"])
    assert blocks["sensitivity"].sum() == pytest.approx(1, abs=1e-4)
    assert not (pipeline / "artifacts/sensitivity/one_float.csv").exists(), "it is measured where it is asked for"
    assert scored.count("val") == 4, "val is evaluated for the float and the chosen model of each stage only"


@pytest.mark.slow
def test_given_float_layers_are_taken(pipeline, scored):
    calibrate(**{"method": "mse"})
    rank(**{"float_layers": ["backbone.stem.conv"]})
    assert read("artifacts/sensitivity/keep_float.json")["float_layers"] == ["backbone.stem.conv"]
    with pytest.raises(ValueError, match="give max_drop, max_layers or max_slowdown"):
        section("sensitivity", **SENSITIVITY | {"max_drop": None, "max_layers": None})


@pytest.mark.slow
def test_a_ranking_from_elsewhere_decides_and_parts_are_measured(pipeline, scored, caplog):
    """Every float layer gains in `scored`, so that the choice is what the budget allows, in the order of the file."""
    calibrate(**{"method": "mse"})
    (pipeline / "elsewhere.txt").write_text("detect.stems.1.conv 0.2\nbackbone.ERBlock_2 0.3\nneck.Rep_p4 0.4\n")
    with caplog.at_level(logging.INFO):
        rank(from_file="elsewhere.txt", max_drop=None, max_layers=2, one_float="blocks")
    assert read("artifacts/sensitivity/keep_float.json")["float_layers"] == [
        "head.stems.1.conv",
        "backbone.stages.0.0.conv",
    ]
    rows = pd.read_csv("artifacts/sensitivity/one_float.csv")
    assert list(rows["score"]) == sorted(rows["score"], reverse=True) and set(rows["kind"]) == {"block"}
    assert list(rows["gain"]) == pytest.approx(list(0.005 * rows["layers"]), abs=1e-3) and len(rows) > 10
    assert f"Top0: float {rows['name'][0]}, mAP {rows['score'][0]:.4f}" in caplog.text
    assert not list((pipeline / ".ckpt/sensitivity").glob("*"))
    with pytest.raises(ValueError, match="float_layers names the layers, from_file an order: give one"):
        section("sensitivity", from_file="elsewhere.txt", float_layers=["a"])


@pytest.mark.slow
def test_latency_is_measured_where_it_is_asked_for(pipeline, scored):
    pytest.importorskip("openvino")
    calibrate(**{"method": "mse"})
    rank(**{"cost": "openvino", "max_slowdown": 0.0})
    choice = read("artifacts/sensitivity/keep_float.json")
    assert choice["cost_unit"] == "INT8 latency" and choice["cost"] <= 0.0


@pytest.mark.slow
def test_exact_results_outlive_a_crash(pipeline, monkeypatch):
    calibrate(**{"method": "max"})
    real, done = SplitEvaluator.__call__, []

    def evaluate(self, network):
        if isinstance(network, OneLayer):
            if len(done) == 2:
                raise KeyboardInterrupt
            done.append(network)
        return real(self, network)

    monkeypatch.setattr(SplitEvaluator, "__call__", evaluate)
    with pytest.raises(KeyboardInterrupt):
        rank(metric="exact")
    (state,) = (pipeline / ".ckpt/sensitivity").iterdir()
    assert len(read(state)) == 2
    done[:] = [None] * 3  # the limit is passed: count on
    rank(metric="exact")
    rows = (pipeline / "artifacts/sensitivity/ranking.csv").read_text().splitlines()
    assert rows[0] == "layer,sensitivity,fast,drop,noise,disagreement,exact,cost,float"
    assert len(done) - 3 == len(rows) - 1 - 2, "measured layers are not measured again"
    assert not state.exists()


def test_the_real_evaluation_runs(pipeline):
    calibrate(**{"method": "max"})
    assert 0 <= read("metrics/ptq.json")["map50_95"] <= 1


@pytest.mark.slow
def test_checkpoints_come_back_as_the_same_network(pipeline):
    network, card = load_float(paths.WEIGHTS["float"])
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    boxes, scores = predictor(network, card.strides)(x)
    assert boxes.shape[-1] == 4 and scores.shape[-1] == card.num_classes
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    calibrate(method="max")
    state = torch.get_rng_state()
    load_float(paths.WEIGHTS["float"])
    load_quantized(paths.WEIGHTS["ptq"])
    assert torch.equal(torch.get_rng_state(), state), "networks to be filled from a file draw no random number"


@pytest.mark.slow
def test_frozen_weight_ranges_come_back_frozen(pipeline, scored):
    calibrate(**{"method": "max"})
    gm, card = load_quantized(pipeline / "artifacts/ptq/weights.safetensors")
    freeze_weight_ranges_(gm)
    with torch.no_grad():
        for parameter in gm.parameters():
            parameter.mul_(1.1)
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    save_quantized(pipeline / "frozen.safetensors", gm, card, method="qat")
    again, card = load_quantized(pipeline / "frozen.safetensors")
    assert card.quantization.method == "qat" and card.quantization.weight_ranges == "frozen"
    with torch.no_grad():
        assert torch.equal(again(x)[0], gm(x)[0])


def test_missing_and_wrong_checkpoints_say_what_to_do(pipeline):
    with pytest.raises(UserError, match="elsewhere/ptq/weights.safetensors does not exist"):
        load_quantized(pipeline / "elsewhere/ptq/weights.safetensors")
    with pytest.raises(UserError, match="holds a float network"):
        load_quantized(paths.WEIGHTS["float"])
    tensors, meta = load_checkpoint(paths.WEIGHTS["float"])
    save_checkpoint(pipeline / "cut.safetensors", dict(list(tensors.items())[:-1]), meta)
    with pytest.raises(UserError, match="does not fit the network it describes"):
        load_float(pipeline / "cut.safetensors")
