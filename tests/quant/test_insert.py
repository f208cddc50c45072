"""Insertion, dialects and float layers."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn

from yolov6core.quant import insert
from yolov6core.quant.fake_quant import ActivationQuantizer, QuantConv2d
from yolov6core.quant.graph_ops import Kind, kind_of
from yolov6core.quant.insert import (
    convolution_names,
    describe,
    get_ranges,
    insert_quantizers,
    quantizable_names,
    quantizers_off,
    ready_for_export_,
    set_dialect_,
    set_float_layers_,
    set_ranges_,
    state_of,
)
from yolov6core.quant.spec import INT8, Dialect


def placements(gm) -> dict[str, tuple[str, ...]]:
    return {placement.value: placement.readers for placement in state_of(gm).placements}


def test_trt_quantizes_the_inputs_of_convolutions_and_pools(net):
    gm = insert_quantizers(net)
    assert placements(gm) == {
        "x": ("stem",),
        "relu": ("depthwise", "add"),  # the skip branch of the add
        "relu_1": ("dilated",),
        "add": ("pool", "cat"),
        "pool": ("pool_1", "cat"),
        "cat": ("fuse",),
        "relu_3": ("down",),
        "relu_4": ("up_conv",),
        "cat_1": ("neck",),
    }


def test_openvino_quantizes_before_pass_through_nodes(net):
    """One quantizer serves convolution and concat, and fuses into the convolution that makes the value."""
    assert placements(insert_quantizers(net, dialect_name="openvino")) == {
        "x": ("stem",),
        "relu": ("depthwise", "add"),
        "relu_1": ("dilated",),
        "add": ("pool", "cat"),  # the pools and the concat pass on values of the grid
        "relu_3": ("down", "cat_1"),
        "relu_4": ("up_conv",),
        "up_conv": ("up_shuffle",),
    }


def test_ort_quantizes_every_result_of_a_quantized_convolution(net):
    gm = insert_quantizers(net, dialect_name="ort")
    covered = placements(gm)
    assert {"relu", "relu_1", "relu_2", "relu_3", "relu_4", "neck"} <= set(covered)
    assert covered["relu_4"] == ("up_conv",) and covered["up_conv"] == ("up_shuffle",) and covered["neck"] == ("act",)
    relus = {placement.value for placement in state_of(gm).placements if placement.non_negative}
    assert relus == {"relu", "relu_1", "relu_2", "relu_3", "relu_4"}
    assert "act" not in covered, "float prediction convolutions read the unquantized tensor"


def test_the_original_and_its_names_stay(net, images):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    expected = net(images())
    gm = insert_quantizers(net)
    state = gm.state_dict()
    assert all(torch.equal(state[name], value) for name, value in before.items() if not name.startswith("up."))
    assert type(net.up) is nn.ConvTranspose2d and isinstance(gm.up.conv, QuantConv2d)
    assert type(net.stem) is nn.Conv2d and isinstance(gm.stem, QuantConv2d)
    with quantizers_off(gm):
        for ours, theirs in zip(gm(images()), expected, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)  # sums of the upsampling in another order
    with pytest.raises(ValueError, match="not calibrated"):
        gm(images())


def test_ranges_are_registered_once_and_survive_copies(net, calibrated, images):
    gm = calibrated(net)
    modules = [
        module for _, module in gm.named_modules(remove_duplicate=False) if isinstance(module, ActivationQuantizer)
    ]
    assert len(modules) == len(set(map(id, modules))) == len(get_ranges(gm))
    copied = copy.deepcopy(gm)
    assert copied.state_dict().keys() == gm.state_dict().keys()
    for name in ("trt", "ort"):  # ranges that the copied dialect did not call must be there, and be the copy's own
        for ours, theirs in zip(set_dialect_(copied, name)(images()), set_dialect_(gm, name)(images()), strict=True):
            assert torch.equal(ours, theirs)
    assert all(a is not b for a, b in zip(copied.ranges.values(), gm.ranges.values(), strict=True))


def test_switching_there_and_back_changes_nothing(net, calibrated, images):
    gm = calibrated(net)
    before, planned = gm(images()), state_of(gm).placements
    set_dialect_(set_float_layers_(set_dialect_(gm, "ort"), ["stem"]), "openvino")
    set_float_layers_(set_dialect_(gm, "trt"), state_of(gm).predictions)
    assert state_of(gm).placements == planned
    assert all(torch.equal(a, b) for a, b in zip(gm(images()), before, strict=True))


def test_openvino_rounds_less_than_trt(net, calibrated, images):
    """Unsigned integers have twice the levels for tensors that are never negative."""
    gm = calibrated(net)
    with quantizers_off(gm):
        exact = gm(images())
    errors = []
    for name in ("trt", "openvino"):
        found = set_dialect_(gm, name)(images())
        errors.append(sum((a - b).square().sum().item() for a, b in zip(found, exact, strict=True)))
    assert errors[1] < errors[0]


@pytest.mark.parametrize("floats", [(), ("neck",), ("down", "fuse")])
def test_quantizing_before_a_concat_or_behind_it_are_the_same_numbers(net, calibrated, images, floats):
    gm = calibrated(net, dialect_name="openvino")
    set_float_layers_(gm, (*floats, "cls_pred", "reg_pred"))
    found = gm(images())
    behind = dataclasses.replace(state_of(gm).dialect, edges="inputs")
    insert._apply_(gm, dialect=behind, float_layers=state_of(gm).float_layers)
    assert all(torch.equal(a, b) for a, b in zip(gm(images()), found, strict=True))


def test_parts_of_a_chunk_that_is_not_quantized_are_quantized_themselves(calibrated, images):
    class Halves(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.left, self.right = nn.Conv2d(3, 8, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
            self.last = nn.Conv2d(8, 4, 1)

        def forward(self, x):
            left, right = self.first(x).relu().chunk(2, dim=1)
            return self.last(torch.cat((self.left(left), self.right(right)), 1)).sigmoid()

    gm = calibrated(Halves().eval(), dialect_name="openvino")
    assert placements(gm)["relu"] == ("chunk",) and "getitem" not in placements(gm)
    set_float_layers_(gm, ["right"])
    assert placements(gm)["getitem"] == ("left",) and "relu" not in placements(gm) and "getitem_1" not in placements(gm)


def test_more_quantizers_on_the_same_grid_give_the_same_numbers(calibrated, images):
    """Quantizing producers and concat or pool outputs again by the group's range is a no-op."""

    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(24, 8, 1)
            self.pool, self.out = nn.MaxPool2d(3, 1, 1), nn.Conv2d(8, 4, 1)

        def forward(self, x):
            x = self.b(self.a(x).relu()).relu()
            pooled = self.pool(x)
            return self.out(self.c(torch.cat((x, pooled, self.pool(pooled)), 1)).relu().sigmoid())

    gm = calibrated(Pooled().eval(), keep_float=lambda name, _: name in ("c",))
    set_float_layers_(gm, ["out"])
    expected = gm(images())
    fewer = len(state_of(gm).placements)
    insert._apply_(gm, dialect=Dialect("all", INT8, "all"), float_layers=frozenset({"out"}))
    # sigmoid, the only other reader, is behind the last convolution: take its quantizer's effect out
    gm.ranges[state_of(gm).groups.group_of["relu_2"]].enabled = False
    assert len(state_of(gm).placements) > fewer
    assert torch.equal(gm(images()), expected)


@pytest.mark.parametrize("dialect_name", ["trt", "ort"])
def test_float_layers_read_unquantized_tensors(relu_net, calibrated, images, dialect_name):
    gm = calibrated(relu_net, keep_float=lambda name, _: name in ("down", "fuse"), dialect_name=dialect_name)
    for node in gm.graph.nodes:
        if kind_of(node, gm) is Kind.CONV:
            value, seen = node.all_input_nodes[0], set()
            while kind_of(value, gm) is not Kind.CONV and value.op != "placeholder":
                seen.add(kind_of(value, gm))
                value = value.all_input_nodes[0]
                if kind_of(value, gm) in (Kind.RELU, Kind.ADD, Kind.OTHER):
                    break
            assert (Kind.ACTIVATION_QUANTIZER in seen) == (str(node.target) not in state_of(gm).float_layers), node
    everything = set_float_layers_(gm, convolution_names(gm))
    for ours, theirs in zip(everything(images()), relu_net(images()), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    assert not state_of(gm).placements


def test_prediction_convolutions_are_found_from_the_graph(net):
    gm = insert_quantizers(net)
    assert state_of(gm).predictions == {"cls_pred", "reg_pred"} == state_of(gm).float_layers
    assert quantizable_names(gm) == [n for n in convolution_names(gm) if "pred" not in n]
    assert not state_of(insert_quantizers(net, quantize_predictions=True)).float_layers


def test_reload_from_a_state_dict(net, calibrated, images):
    gm = set_float_layers_(calibrated(net), ["stem", "cls_pred", "reg_pred"])
    gm.stem.weight.data.mul_(1.01)
    names = state_of(gm).float_layers
    again = insert_quantizers(net, keep_float=lambda name, _: name in names)
    again.load_state_dict(gm.state_dict())
    for dialect_name in ("trt", "ort"):
        pairs = zip(set_dialect_(again, dialect_name)(images()), set_dialect_(gm, dialect_name)(images()), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_ready_for_export_changes_no_number(net, calibrated, images):
    gm = calibrated(net)
    before = gm(images())
    assert all(torch.equal(a, b) for a, b in zip(ready_for_export_(copy.deepcopy(gm))(images()), before, strict=True))


@pytest.mark.slow
def test_gradients_reach_every_weight_and_a_step_helps(net, calibrated, images):
    gm = calibrated(net).train()
    target = [output.detach() + 0.1 for output in net(images())]
    optimizer = torch.optim.Adam(gm.parameters(), lr=1e-3)
    losses = []
    for _ in range(15):
        loss = sum((a - b).square().mean() for a, b in zip(gm(images()), target, strict=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(parameter.grad is not None for parameter in gm.parameters())
    assert min(losses[-3:]) < 0.6 * losses[0]


def test_description_of_a_partial_model(net, calibrated):
    gm = set_float_layers_(calibrated(net), ["stem"])
    rows = {row.name: row for row in describe(gm)}
    assert list(rows) == convolution_names(gm)
    assert not rows["stem"].quantized and rows["fuse"].quantized and rows["cls_pred"].prediction
    assert rows["fuse"].input_group == "add" and rows["fuse"].amax > 0
    assert dataclasses.asdict(rows["neck"])["zero_point"] == 0


def test_errors_name_the_cause(net):
    with pytest.raises(ValueError, match="batch norm 'bn'"):
        insert_quantizers(_with_batch_norm())
    with pytest.raises(ValueError, match="no Conv2d"):
        insert_quantizers(nn.Sequential(nn.ReLU()))
    with pytest.raises(ValueError, match="cpu is 'avx2'; choose exact or saturating"):
        insert_quantizers(net, cpu="avx2")
    gm = insert_quantizers(net)
    with pytest.raises(ValueError, match="stems: no such convolution"):
        set_float_layers_(gm, ["stems"])
    with pytest.raises(ValueError, match="unknown \\['y'\\]"):
        set_ranges_(gm, get_ranges(gm) | {"y": (0.0, 1.0)})
    with pytest.raises(ValueError, match="act: range"):
        set_ranges_(gm, dict.fromkeys(get_ranges(gm), (0.0, 1.0)) | {"act": (0.0, float("inf"))})
    with pytest.raises(ValueError, match="insert_quantizers first"):
        state_of(net)


def _with_batch_norm() -> nn.Module:
    module = nn.Sequential(nn.Conv2d(1, 1, 1))
    module.add_module("bn", nn.BatchNorm2d(1))
    return module
