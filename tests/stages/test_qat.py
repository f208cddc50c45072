"""`qat-distill` on a drawn dataset of a few images and networks that were never trained."""

from __future__ import annotations

import csv
import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from stages import qat_distill
from stages.draw_sample import draw_sample
from stages.params import QatParams, RuntimeParams
from stages.prepare_voc2yolo import prepare_voc2yolo
from stages.shared import paths
from tests.support.pipeline import section, small_card
from tests.support.quantized_start import write_start
from yolov6core.base.errors import UserError
from yolov6core.data.dataset import DetectionDataset
from yolov6core.int8 import qat as task
from yolov6core.int8.quantized_networks import load_quantized
from yolov6core.quant.insert import get_ranges
from yolov6core.tasks.evaluation import SplitEvaluator
from yolov6core.tasks.networks import load_float, save_float
from yolov6core.training.repopt import BlockScales, save_scales

RUNTIME = section("runtime", threads=1, cache_mib=64)
SHORT = {"epochs": 2, "batch_size": 4, "eval_every": 1, "close_mosaic_epochs": 2}
WEIGHTS = paths.WEIGHTS["qat"]


def qat(**changes: object) -> QatParams:
    return section("qat", **SHORT | changes)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("qat")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        draw_sample(root / "voc", images=16, seed=5)
        prepare_voc2yolo(section("prepare", root="voc", calib_images=4, select_fraction=0.25))
        write_start(small_card(DetectionDataset(paths.DATASET, "train").names))
    return root


@pytest.fixture
def run(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """(select scores in order of evaluation, parameters) -> runs the stage; what it wrote and its log are checked."""
    monkeypatch.chdir(workplace)

    def go(scores: list[float], *, augment: dict | None = None, runtime: RuntimeParams = RUNTIME, **changes: object):
        left = iter([0.5, *scores])  # the float network comes first

        def evaluate(self, network):
            score = 0.25 if self.dataset.split == "val" else next(left)
            return SimpleNamespace(stats={"map50_95": score, "map50": score}, detections={}, per_class={})

        monkeypatch.setattr(SplitEvaluator, "__call__", evaluate)
        sections = section("augment", **augment or {}), qat(**changes), section("eval"), runtime
        qat_distill.qat_distill(*sections, command=[])
        assert next(left, None) is None, "not every score was asked for"
        assert json.loads(qat_distill.METRICS.read_text()) == {"map50_95": 0.25, "map50": 0.25}
        return load_quantized(WEIGHTS)

    return go


def start() -> tuple[dict, dict]:
    gm, _ = load_quantized(paths.WEIGHTS["ptq"])
    return dict(gm.named_parameters()), get_ranges(gm)


def test_fixed_scales_stay_while_weights_move(run):
    gm, card = run([0.1, 0.3, 0.2])
    weights, old = start()
    assert get_ranges(gm) == old and card.quantization.weight_ranges == "follow" and card.quantization.method == "max"
    assert all(not torch.equal(parameter, weights[name]) for name, parameter in gm.named_parameters())
    with open(paths.QAT / "epochs.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert {"class", "iou", "distill_class", "distill_box", "distill_features", "map50_95"} <= set(rows[0]) and len(
        rows
    ) == 2


@pytest.mark.slow
def test_curves_are_drawn_where_they_are_wanted(run, tmp_path):
    pytest.importorskip("tensorboard")
    run([0.1, 0.3, 0.2], runtime=section("runtime", threads=1, tensorboard=str(tmp_path)))
    (file,) = (tmp_path / "qat-distill").rglob("events.out.tfevents*")
    assert b"epoch/distill_features" in file.read_bytes() and b"select/map50_95" in file.read_bytes()


@pytest.mark.slow
def test_a_start_that_is_not_beaten_is_kept_and_both_numbers_are_told(run, caplog):
    with caplog.at_level(logging.INFO):
        gm, _ = run([0.4, 0.25, 0.3])
    weights, _ = start()
    assert all(torch.equal(parameter, weights[name]) for name, parameter in gm.named_parameters())
    assert "mAP50:95 0.3000, agreement with float 1.0000 at best (epoch 2), mAP50:95 0.4000" in caplog.text
    assert "at the start, which is kept. Try a lower qat.lr" in caplog.text
    assert "the start, no epoch was better on select" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("best", [True, False], ids=["an epoch", "the start"])
def test_learned_scales_end_as_ranges(run, best):
    gm, card = run([0.1, 0.3, 0.2] if best else [0.4, 0.3, 0.2], scales="learned")
    _, old = start()
    new = get_ranges(gm)
    changed = [name for name in old if new[name] != old[name]]
    assert bool(changed) == best and card.quantization.weight_ranges == "frozen"
    assert all(0.2 * old[name][1] <= new[name][1] <= 5 * old[name][1] for name in old), "scales must not run away"


@pytest.mark.slow
@pytest.mark.parametrize(("again", "kept"), [(0.31, "new"), (0.29, "old")])
def test_ranges_calibrated_again_are_kept_unless_worse(run, caplog, again, kept):
    with caplog.at_level(logging.INFO):
        gm, card = run([0.1, 0.3, 0.2, again], scales="reestimate")
    assert f"(max): mAP50:95 {again:.4f}, agreement with float 1.0000: kept the {kept}" in caplog.text
    assert (get_ranges(gm) == start()[1]) == (kept == "old") and card.quantization.method == "max"


def test_another_float_network_teaches(run):
    """It changes what is learned, and stays without an influence on what the student is compared with."""
    own, _ = run([0.1, 0.3, 0.2], detection=0)
    network, card = load_float(paths.WEIGHTS["float"])
    with torch.no_grad():
        for layer in network.head.cls_preds:
            layer.bias.add_(3)
    save_float(Path("teacher.safetensors"), network, dataclasses.replace(card, deployed=True))
    other, _ = run([0.1, 0.3, 0.2], detection=0, teacher="teacher.safetensors")
    name = "head.cls_preds.0.bias"
    moved = [float((gm.get_parameter(name) - start()[0][name]).detach().mean()) for gm in (own, other)]
    assert moved[1] > 10 * abs(moved[0]), moved


@pytest.mark.slow
def test_batches_of_many_sizes_teach(run, monkeypatch):
    real, sizes = task.network_input, []

    def network_input(batch, device):
        sizes.append(tuple(batch.shape[-2:]))
        return real(batch, device)

    monkeypatch.setattr(task, "network_input", network_input)
    run([0.1, 0.3, 0.2], augment={"multi_scale": 0.5}, batch_size=1, close_mosaic_epochs=1)
    steps = len(sizes) // 2
    assert len(set(sizes[:steps])) > 1 and set(sizes[:steps]) <= {(32, 32), (64, 64), (96, 96)}
    assert set(sizes[steps:]) == {(64, 64)}, "plain epochs"


@pytest.mark.slow
def test_multipliers_of_the_float_training_can_stay(run, monkeypatch):
    network, card = load_float(paths.WEIGHTS["float"])
    scales = {}
    for name, module in network.named_modules():
        conv = getattr(module, "conv", None)
        if isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3) and name.split(".")[0] in ("backbone", "neck"):
            ones = torch.ones(conv.out_channels)
            same = conv.in_channels == conv.out_channels and conv.stride == (1, 1)
            scales[name] = BlockScales(0.1 * ones, 0.1 * ones, ones if same else None)
    with pytest.raises(UserError, match="search-scales"):
        run([0.1], keep_multipliers=True)
    save_scales(paths.SCALES_FILE, scales, variant="test")
    plain, _ = run([0.1, 0.2, 0.3])
    multiplied, _ = run([0.1, 0.2, 0.3], keep_multipliers=True)
    weights = start()[0]
    names = [f"{block}.conv.weight" for block, item in scales.items() if item.identity is None]

    def moved(gm: nn.Module) -> float:
        return sum(float((gm.get_parameter(name) - weights[name]).detach().norm()) for name in names)

    assert 0 < moved(multiplied) < 0.2 * moved(plain)
    with pytest.raises(UserError, match="form 'repvgg'"):
        qat_distill._keep_multipliers(plain, dataclasses.replace(card, block="repvgg"))


def test_a_weight_for_something_is_needed():
    with pytest.raises(ValueError, match="nothing would be learned"):
        qat(detection=0, distill_class=0, distill_box=0, distill_features=0)


@pytest.mark.slow
def test_a_checkpoint_of_the_stage_says_where_it_comes_from(run):
    _, card = run([0.1, 0.3, 0.2])
    start_card = load_quantized(paths.WEIGHTS["ptq"])[1]
    assert card.variant == "test" and card == start_card
