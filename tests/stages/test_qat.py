"""`qat-distill` on a drawn dataset of a few images and networks that were never trained."""

from __future__ import annotations

import copy
import csv
import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ruamel.yaml import YAML
from torch import nn

from stages import _models, _training, qat_distill
from stages._models import load_float_model, load_quantized, save_quantized
from stages._params import AugmentParams
from stages.draw_sample import draw_sample
from stages.prepare_voc2yolo import PrepareParams, prepare_voc2yolo
from stages.qat_distill import STARTS, QatParams, distillation_losses, distilled_maps
from yolov6core.checkpoint import load_checkpoint, save_checkpoint
from yolov6core.errors import UserError
from yolov6core.models.blocks import deploy_
from yolov6core.models.detector import build_detector
from yolov6core.models.variants import VARIANTS, ModelSpec
from yolov6core.quant.calibrate import collect, ranges
from yolov6core.quant.insert import get_ranges, insert_quantizers, set_ranges_
from yolov6core.quant.observers import Method
from yolov6core.training.distributed import Ranks
from yolov6core.training.repopt import BlockScales, scales_to_tensors

ROOT = Path(__file__).parents[2]
RUNTIME = SimpleNamespace(threads=1, workers=0, device="cpu", cache_mib=64)
SHORT = {"epochs": 2, "batch_size": 4, "eval_every": 1, "plain_epochs": 2}
BINS = dataclasses.replace(VARIANTS["yolov6s_base"], width=0.0625, depth=0.17)


def section(name: str) -> dict:
    """A section of the committed parameters."""
    return YAML(typ="safe", pure=True).load((ROOT / "params.yaml").read_text(encoding="utf-8"))[name]


def qat(**changes: object) -> QatParams:
    return QatParams(**section("qat") | SHORT | changes)


def images(count: int = 4) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def write_start(spec: ModelSpec, names: list[str]) -> None:
    """Float and PTQ checkpoints as the stages before leave them."""
    torch.manual_seed(0)
    network = build_detector(spec, num_classes=len(names))
    for module in network.modules():  # statistics of random data, so that no tensor is dead
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        network.train()(images() / 255)
    meta = {"model": spec.to_meta(), "variant": "test", "block": spec.block, "names": names, "image_size": [64, 64]}
    save_checkpoint(_models.FLOAT_WEIGHTS, network.state_dict(), meta)
    gm = insert_quantizers(deploy_(network.eval()))
    set_ranges_(gm, ranges(collect(gm, [images() / 255]), Method("max")))
    save_quantized(STARTS["ptq"], gm, meta, method="max")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("qat")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        draw_sample(root / "voc", images=16, seed=5)
        changes = {"root": "voc", "calib_images": 4, "select_fraction": 0.25}
        prepare_voc2yolo(PrepareParams(**section("prepare") | changes))
        report = json.loads((root / "artifacts/dataset/annotations/instances_train.json").read_text())
        names = [category["name"] for category in report["categories"]]
        write_start(VARIANTS["test"], names)
    return root


@pytest.fixture
def run(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """(select scores in order of evaluation, parameters) -> runs the stage; what it wrote and its log are checked."""
    monkeypatch.chdir(workplace)

    def go(scores: list[float], *, augment: dict | None = None, **changes: object):
        left = iter([0.5, *scores])  # the float network comes first

        def evaluate(network, meta, split, **_):
            score = 0.25 if split == "val" else next(left)
            return SimpleNamespace(stats={"map50_95": score, "map50": score}, detections={})

        monkeypatch.setattr(_training, "evaluate_split", evaluate)
        monkeypatch.setattr(qat_distill, "evaluate_split", evaluate)
        qat_distill.qat_distill(AugmentParams(**section("augment") | (augment or {})), qat(**changes), RUNTIME)
        assert next(left, None) is None, "not every score was asked for"
        assert json.loads(qat_distill.METRICS.read_text()) == {"map50_95": 0.25, "map50": 0.25}
        return load_quantized(qat_distill.OUT / "weights.safetensors")

    return go


def start() -> tuple[dict, dict]:
    gm, _ = load_quantized(STARTS["ptq"])
    return dict(gm.named_parameters()), get_ranges(gm)


def test_fixed_scales_stay_while_weights_move(run):
    gm, meta = run([0.1, 0.3, 0.2])
    weights, old = start()
    assert get_ranges(gm) == old and meta["quant"]["weight_ranges"] == "follow" and meta["quant"]["method"] == "max"
    assert all(not torch.equal(parameter, weights[name]) for name, parameter in gm.named_parameters())
    with open(qat_distill.OUT / "epochs.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert {"class", "iou", "match_class", "match_box", "features", "map50_95"} <= set(rows[0]) and len(rows) == 2


def test_a_start_that_is_not_beaten_is_kept_and_both_numbers_are_told(run, caplog):
    with caplog.at_level(logging.INFO):
        gm, _ = run([0.4, 0.25, 0.3])
    weights, _ = start()
    assert all(torch.equal(parameter, weights[name]) for name, parameter in gm.named_parameters())
    assert "mAP50:95 0.3000, agreement with float 1.0000 at best (epoch 2), mAP50:95 0.4000" in caplog.text
    assert "at the start, which is kept. Try a lower qat.lr" in caplog.text
    assert "the start, no epoch was better on select" in caplog.text


@pytest.mark.parametrize("best", [True, False], ids=["an epoch", "the start"])
def test_learned_scales_end_as_ranges(run, best):
    gm, meta = run([0.1, 0.3, 0.2] if best else [0.4, 0.3, 0.2], scales="learned")
    _, old = start()
    new = get_ranges(gm)
    changed = [name for name in old if new[name] != old[name]]
    assert bool(changed) == best and meta["quant"]["weight_ranges"] == "frozen"
    assert all(0.2 * old[name][1] <= new[name][1] <= 5 * old[name][1] for name in old), "scales must not run away"


@pytest.mark.parametrize(("again", "kept"), [(0.31, "new"), (0.29, "old")])
def test_ranges_calibrated_again_are_kept_unless_worse(run, caplog, again, kept):
    with caplog.at_level(logging.INFO):
        gm, meta = run([0.1, 0.3, 0.2, again], scales="reestimate")
    assert f"(max): mAP50:95 {again:.4f}, agreement with float 1.0000: kept the {kept}" in caplog.text
    assert (get_ranges(gm) == start()[1]) == (kept == "old") and meta["quant"]["method"] == "max"


def test_batches_of_many_sizes_teach(run, monkeypatch):
    real, sizes = qat_distill.network_input, []

    def network_input(batch, device):
        sizes.append(tuple(batch.shape[-2:]))
        return real(batch, device)

    monkeypatch.setattr(qat_distill, "network_input", network_input)
    run([0.1, 0.3, 0.2], augment={"multi_scale": 0.5}, batch_size=1, plain_epochs=1)
    steps = len(sizes) // 2
    assert len(set(sizes[:steps])) > 1 and set(sizes[:steps]) <= {(32, 32), (64, 64), (96, 96)}
    assert set(sizes[steps:]) == {(64, 64)}, "plain epochs"


def test_multipliers_of_the_float_training_can_stay(run, monkeypatch):
    network, meta = load_float_model(_models.FLOAT_WEIGHTS)
    scales = {}
    for name, module in network.named_modules():
        conv = getattr(module, "conv", None)
        if isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3) and name.split(".")[0] in ("backbone", "neck"):
            ones = torch.ones(conv.out_channels)
            same = conv.in_channels == conv.out_channels and conv.stride == (1, 1)
            scales[name] = BlockScales(0.1 * ones, 0.1 * ones, ones if same else None)
    with pytest.raises(UserError, match="search-scales"):
        run([0.1], keep_multipliers=True)
    save_checkpoint(qat_distill.SCALES, scales_to_tensors(scales), {})
    plain, _ = run([0.1, 0.2, 0.3])
    multiplied, _ = run([0.1, 0.2, 0.3], keep_multipliers=True)
    weights = start()[0]
    names = [f"{block}.conv.weight" for block, item in scales.items() if item.identity is None]

    def moved(gm: nn.Module) -> float:
        return sum(float((gm.get_parameter(name) - weights[name]).detach().norm()) for name in names)

    assert 0 < moved(multiplied) < 0.2 * moved(plain)
    with pytest.raises(UserError, match="form 'repvgg'"):
        qat_distill._keep_multipliers(plain, meta | {"block": "repvgg"})


def test_a_weight_for_something_is_needed():
    with pytest.raises(ValueError, match="nothing would be learned"):
        qat(detection=0, match_class=0, match_box=0, features=0)


def pair(spec: ModelSpec, classes: int) -> tuple[nn.Module, nn.Module, dict]:
    """(student, teacher, meta): the same network, quantized without an error that anyone would see, and float."""
    torch.manual_seed(0)
    teacher = deploy_(build_detector(spec, num_classes=classes).eval())
    student = insert_quantizers(teacher)
    set_ranges_(student, ranges(collect(student, [images() / 255]), Method("max")))
    return student, teacher, {"model": spec.to_meta(), "names": list(range(classes)), "branch": "none"}


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize(("spec", "bins"), [(VARIANTS["test"], False), (BINS, True)], ids=["distances", "bins"])
def test_terms(spec, bins, classes):
    student, teacher, meta = pair(spec, classes)
    losses = distillation_losses(student, teacher, meta=meta, qat=qat(), ranks=Ranks())
    targets = torch.tensor([[0, 0, 0.5, 0.5, 0.4, 0.4], [1, classes - 1, 0.4, 0.6, 0.3, 0.5]])
    terms = losses((images(), targets), 0)
    dfl = {"dfl", "match_dfl"} if bins else set()
    assert set(terms) == {"class", "iou", "match_class", "match_box", "features"} | dfl
    assert set(terms) <= set(qat_distill.loss_weights(qat()))
    assert all(term.isfinite() and term >= -1e-6 for term in terms.values())
    sum(terms.values()).backward()
    assert all(parameter.grad is not None for parameter in student.parameters())


def test_matching_is_zero_for_the_teacher_itself():
    for spec in (VARIANTS["test"], BINS):
        _, teacher, meta = pair(spec, 2)
        settings = qat(detection=0)
        terms = distillation_losses(copy.deepcopy(teacher), teacher, meta=meta, qat=settings, ranks=Ranks())(
            (images(), None), 0
        )
        assert all(term.detach().abs() < 1e-4 for term in terms.values()), terms


def test_without_detection_no_labels_are_read():
    student, teacher, meta = pair(VARIANTS["test"], 2)
    terms = distillation_losses(student, teacher, meta=meta, qat=qat(detection=0), ranks=Ranks())((images(), None), 0)
    assert set(terms) == {"match_class", "match_box", "features"}
    only = qat(detection=0, match_class=0, match_box=0, match_dfl=0)
    assert set(distillation_losses(student, teacher, meta=meta, qat=only, ranks=Ranks())((images(), None), 0)) == {
        "features"
    }


@pytest.mark.parametrize("name", ["yolov6n", "yolov6m", "yolov6l6", "yolov6s_mbla", "yolov6_lite_s"])
def test_maps_are_found_in_every_family(name):
    student, teacher, _ = pair(dataclasses.replace(VARIANTS[name], width=0.0625, depth=0.17), 2)
    paths = distilled_maps(teacher)
    assert len(paths) == len(VARIANTS[name].strides)
    assert all(type(student.get_submodule(path)) is type(teacher.get_submodule(path)) for path in paths)


def test_a_checkpoint_of_the_stage_says_where_it_comes_from(run):
    run([0.1, 0.3, 0.2])
    meta = load_checkpoint(qat_distill.OUT / "weights.safetensors")[1]
    assert meta["variant"] == "test" and set(meta["quant"]) == {
        "method",
        "dialect",
        "cpu",
        "float_layers",
        "weight_ranges",
    }
