"""Quantized checkpoints of every family come back as the networks that were saved."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tests.support.speed import slow_except
from yolov6core.base.checkpoint import load_checkpoint, save_checkpoint
from yolov6core.base.errors import UserError
from yolov6core.int8.quantized_networks import load_quantized, matching_layers, save_quantized
from yolov6core.models.blocks import deploy_
from yolov6core.models.card import NetworkCard
from yolov6core.models.stage_blocks import ShortcutScale
from yolov6core.models.variants import VARIANTS
from yolov6core.quant.calibrate import collect, ranges
from yolov6core.quant.insert import insert_quantizers, set_ranges_
from yolov6core.quant.observers import Method
from yolov6core.tasks.networks import fresh_network, load_float, placed, save_float

FAMILIES = ["yolov6n", "yolov6m", "yolov6s_mbla", "yolov6_lite_s", "test"]


def images() -> torch.Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def small_card(name: str) -> NetworkCard:
    spec = dataclasses.replace(VARIANTS[name], width=0.0625, depth=0.17)
    return NetworkCard(spec, name, spec.block, ("a", "b"), image_size=(64, 64))


@pytest.mark.parametrize("factor", [1.0, pytest.param(1.5, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", slow_except(FAMILIES, "test"))
def test_networks_come_back(tmp_path, name, factor):
    """With shortcuts whose factor was trained, too: the deployed form keeps those."""
    torch.manual_seed(0)
    card, path = small_card(name), tmp_path / "weights.safetensors"
    network = fresh_network(card).eval()
    for module in network.modules():
        if isinstance(module, ShortcutScale):
            module.weight.data.fill_(factor)
    save_float(path, network, card)
    state = torch.get_rng_state()
    loaded, read = load_float(path)
    assert torch.equal(torch.get_rng_state(), state) and read == card
    deployed = placed(deploy_(network), "cpu").requires_grad_(False)  # the layout decides the order of sums
    assert torch.equal(loaded(images())[0], deployed(images())[0])

    model = insert_quantizers(deployed)
    set_ranges_(model, ranges(collect(model, [images()]), Method("max")))
    save_quantized(path, model, card, method="max")
    state = torch.get_rng_state()
    again, read = load_quantized(path)
    assert torch.equal(torch.get_rng_state(), state)
    assert read.quantization is not None and read.quantization.method == "max"
    assert dataclasses.replace(read, quantization=None) == card
    for ours, wanted in zip(again(images()), model(images()), strict=True):
        assert torch.equal(ours, wanted)
    save_float(path, deployed, dataclasses.replace(card, deployed=True))
    assert torch.equal(load_float(path)[0](images())[0], deployed(images())[0])


def test_checkpoints_of_the_other_kind_are_refused(tmp_path):
    card, path = small_card("test"), tmp_path / "weights.safetensors"
    save_float(path, fresh_network(card), card)
    with pytest.raises(UserError, match="holds a float network"):
        load_quantized(path)
    tensors, meta = load_checkpoint(path)
    save_checkpoint(path, tensors, meta | {"quant": {"method": "max"}})
    with pytest.raises(UserError, match="holds a quantized network"):
        load_float(path)
    save_checkpoint(path, tensors, {"names": ["a"]})
    with pytest.raises(UserError, match="the metadata describe no network"):
        load_float(path)


def test_layers_are_named_by_pattern():
    net = torch.nn.Sequential(*(torch.nn.Conv2d(3, 3, 1) for _ in range(12)))
    model = insert_quantizers(net)
    assert matching_layers(model, ["1*", "3"], where="x") == ["1", "3", "10", "11"]
    with pytest.raises(UserError, match="x: 'z' fits no convolution; the network has 0, 1"):
        matching_layers(model, ["z"], where="x")
    with pytest.raises(UserError, match="x: .* leave every convolution float"):
        matching_layers(model, ["*"], where="x")
