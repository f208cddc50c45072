"""The whole family: every network of the table, made narrow, is quantized, trained and stored the same way."""

from __future__ import annotations

import dataclasses
import io

import pytest
import torch
from torch import Tensor, nn

from tests.support.speed import slow_except
from yolov6core.models.blocks import deploy_
from yolov6core.models.detector import build_detector
from yolov6core.models.variants import VARIANTS
from yolov6core.quant.calibrate import collect, ranges
from yolov6core.quant.insert import (
    describe,
    fix_ranges_,
    insert_quantizers,
    learn_ranges_,
    quantizers_off,
    set_dialect_,
    set_ranges_,
    state_of,
)
from yolov6core.quant.observers import Method
from yolov6core.quant.spec import DIALECTS


def deployed(name: str, num_classes: int = 3) -> nn.Module:
    """A narrow and shallow form of a variant, batch norm folded: statistics of noise, set to where activations bend
    little, because an untrained network of random features is chaotic otherwise."""
    torch.manual_seed(0)
    spec = dataclasses.replace(VARIANTS[name], width=0.0625, depth=0.33)
    network = build_detector(spec, num_classes=num_classes)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            nn.init.constant_(module.weight, 0.25)
            nn.init.constant_(module.bias, 1.0)
    with torch.no_grad():
        network.train()(images())
    return deploy_(network.eval())


def images() -> Tensor:
    return torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))


def difference(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> float:
    """Largest error of an output relative to how far its anchors differ; all have one large bias in common."""
    return max(
        float((a - b).norm() / (b - b.mean(dim=1, keepdim=True)).norm()) for a, b in zip(ours, theirs, strict=True)
    )


def different_variants() -> list[str]:
    """The variants without those that differ in width, depth and training only."""
    narrow = {name: dataclasses.replace(spec, width=0, depth=0, iou_type="") for name, spec in VARIANTS.items()}
    return list({spec: name for name, spec in narrow.items()}.values())


@pytest.mark.parametrize("name", slow_except(different_variants(), "test"))
def test_quantize_train_store(name):
    network = deployed(name)
    gm = insert_quantizers(network)
    predictions = {f"head.{kind}_preds.{level}" for kind in ("cls", "reg") for level in range(len(network.head.stems))}
    assert state_of(gm).predictions == predictions == state_of(gm).float_layers
    set_ranges_(gm, ranges(collect(gm, [images()], bins=256), Method("max")))
    with torch.no_grad():
        with quantizers_off(gm):
            assert difference(gm(images()), network(images())) < 1e-5
        for dialect_name in (*DIALECTS, "trt"):
            outputs = set_dialect_(gm, dialect_name)(images())
            assert 0 < difference(outputs, network(images())) < 0.25
    assert all(row.quantized != row.prediction and row.input_scale for row in describe(gm))

    sum((output.square() * torch.randn_like(output)).sum() for output in gm.train()(images())).backward()
    missing = [key for key, parameter in gm.named_parameters() if parameter.grad is None]
    assert not missing, "every weight is trained"
    with torch.no_grad():
        for parameter in gm.parameters():
            parameter -= 1e-4 * parameter.grad / parameter.grad.norm().clamp_min(1e-6)
    stored = io.BytesIO()
    torch.save(gm.state_dict(), stored)
    stored.seek(0)
    again = insert_quantizers(network)
    again.load_state_dict(torch.load(stored))
    with torch.no_grad():
        assert difference(again(images()), gm.eval()(images())) == 0


@pytest.mark.slow
@pytest.mark.parametrize("scales", ["fixed", "learned"])
def test_one_class_is_trained(scales):
    gm = insert_quantizers(deployed("yolov6n_v2", num_classes=1))
    set_ranges_(gm, ranges(collect(gm, [images()], bins=256), Method("max")))
    if scales == "learned":
        learn_ranges_(gm)
    optimizer = torch.optim.SGD(gm.train().parameters(), lr=1e-3)
    losses = []
    for _ in range(4):
        logits, distances = gm(images())
        assert logits.shape[-1] == 1
        loss = nn.functional.binary_cross_entropy_with_logits(logits, torch.ones_like(logits)) + distances.abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    fix_ranges_(gm)
    assert losses[-1] < losses[0]
