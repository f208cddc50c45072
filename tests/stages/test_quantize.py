"""Calibration and sensitivity as stages, on a drawn dataset of a few images and a network that was never trained."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stages import _evaluation, _models
from stages._evaluation import predictor
from stages._models import (
    load_float_model,
    load_quantized,
    matching_layers,
    retention,
    save_quantized,
)
from stages.draw_sample import draw_sample
from stages.prepare_voc2yolo import PrepareParams, prepare_voc2yolo
from stages.ptq_calib import PtqParams, ptq_calib
from stages.sensitivity import SensitivityParams, sensitivity
from yolov6core.checkpoint import load_checkpoint, save_checkpoint
from yolov6core.data.dataset import DetectionDataset
from yolov6core.errors import UserError
from yolov6core.models.detector import build_detector
from yolov6core.models.variants import variant
from yolov6core.quant.insert import freeze_weight_ranges_, get_ranges, state_of
from yolov6core.quant.sensitivity import OneLayer

RUNTIME = SimpleNamespace(threads=1, workers=0, device="cpu")
PTQ = {
    "method": "auto",
    "percentiles": [99.9, 99.99],
    "dialect": "openvino",
    "cpu": "exact",
    "batch_size": 4,
    "float_layers": [],
    "predictions": "float",
    "equalize": "depthwise",
    "adaround": 0,
    "bias_correction": "off",
    "min_retention": 0.9,
    "on_failure": "warn",
    "wild_ratio": 16.0,
}
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


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with a small dataset and a float checkpoint, as the stages before leave it."""
    root = tmp_path_factory.mktemp("pipeline")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        draw_sample(root / "voc", images=16, seed=5)
        prepare = {"root": "voc", "format": "auto", "train_split": "train", "val_split": "val", "val_fraction": 0.25}
        prepare |= {"select_fraction": 0.2, "calib_images": 4, "classes": None, "difficult": "keep", "min_box": 2.0}
        prepare_voc2yolo(PrepareParams(**prepare, voc_origin=1, strict=False, seed=0))
        torch.manual_seed(0)
        spec = variant("test")
        names = list(DetectionDataset(root / "artifacts/dataset", "train").names)
        network = build_detector(spec, num_classes=len(names))
        for module in network.modules():  # statistics of random data, so that no tensor is dead
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None
        network.train()
        with torch.no_grad():
            network(torch.rand(4, 3, 64, 64))
        meta = {"model": spec.to_meta(), "variant": "test", "block": "repopt", "names": names, "image_size": [64, 64]}
        save_checkpoint(root / "artifacts/train/weights.safetensors", network.state_dict(), meta)
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

    def evaluate(network, meta, split, *, batch_size):
        splits.append(split)
        with torch.no_grad():
            pairs = zip(network(x), load_float_model(_models.FLOAT_WEIGHTS)[0](x), strict=True)
            error = sum(((ours - reference).norm() / reference.std()).item() for ours, reference in pairs)
        quantized = sum(getattr(module, "active", False) for module in network.modules())
        score = 0.5 - 0.005 * quantized - 1e-4 * min(error, 10.0)
        return SimpleNamespace(stats={"map50_95": score, "map50": 1.5 * score}, detections={})

    monkeypatch.setattr(_evaluation, "evaluate_split", evaluate)
    return splits


def read(path: str) -> dict:
    with open(path, encoding="utf-8") as handle:
        return json.load(handle)


def test_ptq_writes_what_the_next_stages_read(pipeline, scored):
    ptq_calib(PtqParams(**PTQ), RUNTIME)
    assert scored.count("val") == 2, "val is evaluated for the float and the chosen model only"
    methods = read("artifacts/ptq/methods.json")
    compared = {name: figures["map50_95"] for name, figures in methods["select"].items() if name != "float"}
    assert set(compared) == {"mse", "entropy", "percentile_99.9", "percentile_99.99", "max"}
    assert compared[methods["chosen"]] == max(compared.values()) and methods["images"] == 4
    figures = read("metrics/ptq.json")
    assert set(figures) == {"map50_95", "map50"} and 0 < figures["map50_95"] < figures["map50"]
    gm, meta = load_quantized(pipeline / "artifacts/ptq/weights.safetensors")
    assert meta["quant"]["method"] == methods["chosen"]
    assert all(np.isfinite(bounds).all() for bounds in get_ranges(gm).values())
    histograms = np.load("artifacts/ptq/histograms.npz")
    assert histograms["images.counts"].sum() == 4 * 3 * 64 * 64
    header, *rows = (pipeline / "artifacts/ptq/ranges.csv").read_text().splitlines()
    assert header.startswith("group,method,amin,amax") and len(rows) == 5 * len(get_ranges(gm))


def test_ptq_is_reproducible_to_the_byte(pipeline, scored):
    written = []
    for _ in range(2):
        ptq_calib(PtqParams(**PTQ | {"method": "mse"}), RUNTIME)
        written.append({path.name: path.read_bytes() for path in (pipeline / "artifacts/ptq").iterdir()})
    assert written[0] == written[1]


def test_too_little_accuracy_warns_or_fails(pipeline, scored, caplog):
    settings = PTQ | {"method": "max", "min_retention": 1.0}
    with caplog.at_level(logging.WARNING):
        ptq_calib(PtqParams(**settings), RUNTIME)
    assert "less than ptq.min_retention" in caplog.text
    with pytest.raises(UserError, match="qat-distill"):
        ptq_calib(PtqParams(**settings | {"on_failure": "fail"}), RUNTIME)


def test_layers_named_by_pattern_stay_float(pipeline, scored):
    ptq_calib(PtqParams(**PTQ | {"method": "max", "float_layers": ["head.stems.*"]}), RUNTIME)
    gm, _ = load_quantized(pipeline / "artifacts/ptq/weights.safetensors")
    floats = state_of(gm).float_layers - state_of(gm).predictions
    assert floats == {f"head.stems.{level}.conv" for level in range(3)}
    with pytest.raises(UserError, match=r"ptq.float_layers: 'heads\.\*' fits no convolution"):
        ptq_calib(PtqParams(**PTQ | {"float_layers": ["heads.*"]}), RUNTIME)


def test_sensitivity_writes_the_partial_model(pipeline, scored):
    ptq_calib(PtqParams(**PTQ | {"method": "mse"}), RUNTIME)
    sensitivity(SensitivityParams(**SENSITIVITY | {"max_drop": 0.0}), RUNTIME)
    choice, figures = read("artifacts/sensitivity/keep_float.json"), read("metrics/partial.json")
    assert 1 <= len(choice["float_layers"]) <= 3 and not choice["within_budget"]
    assert figures["map50_95"] >= read("metrics/ptq.json")["map50_95"]
    assert figures["float_layers"] == len(choice["float_layers"])
    gm, meta = load_quantized(pipeline / "artifacts/sensitivity/weights.safetensors")
    assert state_of(gm).float_layers == state_of(gm).predictions | set(choice["float_layers"])
    assert meta["quant"]["method"] == "mse"
    rows = (pipeline / "artifacts/sensitivity/ranking.csv").read_text().splitlines()
    assert rows[0] == "layer,harm,fast,cost,float"
    assert sum(row.endswith(",1") for row in rows) == len(choice["float_layers"])
    harm = [float(row.split(",")[1]) for row in rows[1:]]
    assert harm == sorted(harm, reverse=True) and sum(harm) == pytest.approx(1, abs=1e-4)
    assert (pipeline / "artifacts/sensitivity/ranking.png").stat().st_size > 1000
    assert scored.count("val") == 4, "val is evaluated for the float and the chosen model of each stage only"


def test_given_float_layers_are_taken(pipeline, scored):
    ptq_calib(PtqParams(**PTQ | {"method": "mse"}), RUNTIME)
    sensitivity(SensitivityParams(**SENSITIVITY | {"float_layers": ["backbone.stem.conv"]}), RUNTIME)
    assert read("artifacts/sensitivity/keep_float.json")["float_layers"] == ["backbone.stem.conv"]
    with pytest.raises(ValueError, match="give max_drop, max_layers or max_slowdown"):
        SensitivityParams(**SENSITIVITY | {"max_drop": None, "max_layers": None})


def test_latency_is_measured_where_it_is_asked_for(pipeline, scored):
    pytest.importorskip("openvino")
    ptq_calib(PtqParams(**PTQ | {"method": "mse"}), RUNTIME)
    sensitivity(SensitivityParams(**SENSITIVITY | {"cost": "openvino", "max_slowdown": 0.0}), RUNTIME)
    choice = read("artifacts/sensitivity/keep_float.json")
    assert choice["cost_unit"] == "INT8 latency" and choice["cost"] <= 0.0


def test_exact_results_outlive_a_crash(pipeline, monkeypatch):
    ptq_calib(PtqParams(**PTQ | {"method": "max"}), RUNTIME)
    settings, real, done = SensitivityParams(**SENSITIVITY | {"metric": "exact"}), _evaluation.evaluate_split, []

    def evaluate(network, *arguments, **options):
        if isinstance(network, OneLayer):
            if len(done) == 2:
                raise KeyboardInterrupt
            done.append(network)
        return real(network, *arguments, **options)

    monkeypatch.setattr(_evaluation, "evaluate_split", evaluate)
    with pytest.raises(KeyboardInterrupt):
        sensitivity(settings, RUNTIME)
    (state,) = (pipeline / ".ckpt/sensitivity").iterdir()
    assert len(read(state)) == 2
    done[:] = [None] * 3  # the limit is passed: count on
    sensitivity(settings, RUNTIME)
    rows = (pipeline / "artifacts/sensitivity/ranking.csv").read_text().splitlines()
    assert rows[0] == "layer,harm,fast,drop,noise,disagreement,exact,cost,float"
    assert len(done) - 3 == len(rows) - 1 - 2, "measured layers are not measured again"
    assert not state.exists()


def test_the_real_evaluation_runs(pipeline):
    ptq_calib(PtqParams(**PTQ | {"method": "max"}), RUNTIME)
    assert 0 <= read("metrics/ptq.json")["map50_95"] <= 1


def test_checkpoints_come_back_as_the_same_network(pipeline):
    network, meta = load_float_model(_models.FLOAT_WEIGHTS)
    x = torch.rand(1, 3, 64, 64)
    boxes, scores = predictor(network, meta)(x)
    assert boxes.shape[-1] == 4 and scores.shape[-1] == len(meta["names"])
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    state = torch.get_rng_state()
    load_float_model(_models.FLOAT_WEIGHTS)
    assert torch.equal(torch.get_rng_state(), state)


def test_frozen_weight_ranges_come_back_frozen(pipeline, scored):
    ptq_calib(PtqParams(**PTQ | {"method": "max"}), RUNTIME)
    gm, meta = load_quantized(pipeline / "artifacts/ptq/weights.safetensors")
    freeze_weight_ranges_(gm)
    with torch.no_grad():
        for parameter in gm.parameters():
            parameter.mul_(1.1)
    x = torch.rand(1, 3, 64, 64)
    save_quantized(pipeline / "frozen.safetensors", gm, meta, method="qat")
    again, meta = load_quantized(pipeline / "frozen.safetensors")
    assert meta["quant"] == {**meta["quant"], "method": "qat", "weight_ranges": "frozen"}
    with torch.no_grad():
        assert torch.equal(again(x)[0], gm(x)[0])


def test_missing_and_wrong_checkpoints_say_what_to_do(pipeline):
    with pytest.raises(UserError, match="run 'dvc repro ptq-calib' first"):
        load_quantized(pipeline / "elsewhere/ptq/weights.safetensors")
    with pytest.raises(UserError, match="holds a float network"):
        load_quantized(pipeline / _models.FLOAT_WEIGHTS)
    tensors, meta = load_checkpoint(_models.FLOAT_WEIGHTS)
    save_checkpoint(pipeline / "cut.safetensors", dict(list(tensors.items())[:-1]), meta)
    with pytest.raises(UserError, match="does not fit the network it describes"):
        load_float_model(pipeline / "cut.safetensors")


def test_small_helpers():
    assert retention(0.3, 0.4) == pytest.approx(0.75) and retention(0.0, 0.0) == 1.0
    assert matching_layers(["a.b", "a.c", "d"], ["a.*", "d"], where="x") == ["a.b", "a.c", "d"]
    with pytest.raises(ValueError, match="percentiles is empty"):
        PtqParams(**PTQ | {"method": "percentile", "percentiles": []})
