"""Weights whose sums of pairs overflow on no CPU, checked by a plain enumeration of the pairs."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor

from yolov6core.base.saturation import channel_amax, integer_limits, overflows, pair_peak
from yolov6core.quant.adaround import round_weights_
from yolov6core.quant.fake_quant import QuantConv2d
from yolov6core.quant.insert import (
    convolution_names,
    fix_ranges_,
    freeze_weight_ranges_,
    learn_ranges_,
    ready_for_export_,
    set_dialect_,
    state_of,
)
from yolov6core.quant.weights import weight_scale

SHAPES = {
    "dense": ((16, 8, 3, 3), 1),
    "1x1": ((8, 32, 1, 1), 1),
    "odd channels": ((8, 3, 3, 3), 1),
    "odd 1x1": ((6, 7, 1, 1), 1),
    "grouped": ((12, 4, 3, 3), 3),
    "grouped, odd channels": ((12, 3, 5, 5), 4),
    "one channel": ((8, 1, 3, 3), 1),
    "two for each channel": ((8, 1, 3, 3), 4),
    "not square": ((8, 6, 1, 5), 1),
    "a single weight": ((8, 1, 1, 1), 1),
    "depthwise": ((8, 1, 3, 3), 8),
    "one to one": ((1, 1, 6, 6), 1),
}


def pairs_of(shape: tuple[int, ...], groups: int) -> list[tuple[int, int]]:
    """Positions in (row, column, channel) order of the weights that meet in 16 bits."""
    out, channels, *kernel = shape
    count = channels * kernel[0] * kernel[1]
    if channels == 1:
        return [] if out == groups > 1 else list(itertools.combinations(range(count), 2))
    if channels % 2:
        return [(i, i + 1) for i in range(count - 1)]
    return [(i, i + 1) for i in range(0, count, 2)]


def largest_sum(integers: Tensor, groups: int) -> float:
    """Largest magnitude that any pair adds up to for activations of 0 or 1, in any channel."""
    rows = integers.permute(0, 2, 3, 1).flatten(1)
    largest = float(rows.abs().max())
    for i, j in pairs_of(tuple(integers.shape), groups):
        for first, second in zip(rows[:, i].tolist(), rows[:, j].tolist(), strict=True):
            largest = max(largest, max(first, 0) + max(second, 0), -min(first, 0) - min(second, 0))
    return largest


def some_weights(shape: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=generator) ** (3 if seed % 2 else 1)
    return weight.abs() if seed % 3 == 2 else weight


def integers_of(weight: Tensor, scale: Tensor) -> Tensor:
    return (weight / scale.view(-1, 1, 1, 1)).round()


@pytest.mark.parametrize("shape, groups", SHAPES.values(), ids=SHAPES)
def test_scales_that_follow_the_weights_keep_every_sum_within_16_bits(shape, groups):
    for seed in range(12):
        weight = some_weights(shape, seed)
        peak = pair_peak(weight, groups)
        integers = integers_of(weight, weight_scale(peak))
        assert largest_sum(integers, groups) <= 128
        assert 255 * largest_sum(integers, groups) < 2**15
        assert not overflows(integers.to(torch.int8), groups)
        assert bool((peak >= channel_amax(weight)).all()) and bool((peak <= 2 * channel_amax(weight)).all())
        if shape[1] > 1:  # no larger a scale than it takes, except where any two weights may meet
            assert largest_sum(integers, groups) >= 125


@pytest.mark.parametrize("shape, groups", SHAPES.values(), ids=SHAPES)
def test_layers_without_pairs_keep_all_bits_and_others_do_not_lose_more_than_one(shape, groups):
    weight = some_weights(shape, 0)
    factor = pair_peak(weight, groups) / channel_amax(weight)
    if pairs_of(shape, groups):
        assert float(factor.mean()) > 1.05
    else:
        assert torch.equal(factor, torch.ones_like(factor))


@pytest.mark.parametrize("shape, groups", SHAPES.values(), ids=SHAPES)
def test_limits_make_any_integers_safe_and_leave_safe_ones_alone(shape, groups):
    for seed in range(12):
        unlimited = (some_weights(shape, seed) * 90).round().clamp(-127, 127)
        limit = integer_limits(unlimited, groups)
        limited = unlimited.clamp(-limit, limit)
        assert largest_sum(limited, groups) <= 128
        again = integer_limits(limited, groups)
        assert torch.equal(limited.clamp(-again, again), limited)
        assert integer_limits(unlimited, None) == 127
        assert overflows(unlimited.to(torch.int8), groups) == (largest_sum(unlimited, groups) > 128)


def test_of_a_pair_the_larger_weight_gives_way():
    pairs = torch.tensor([[127.0, 20], [127, 127], [-100, -90], [127, -127], [64, 64], [65, 64]])
    limit = integer_limits(pairs[:, :, None, None], 1)
    found = pairs.clamp(-limit.flatten(1), limit.flatten(1)).tolist()
    assert found == [[108, 20], [64, 64], [-64, -64], [127, -127], [64, 64], [64, 64]]


@pytest.fixture
def paired(calibrated, net):
    """A calibrated network for CPUs whose sums saturate."""
    return calibrated(net, dialect_name="openvino", cpu="saturating")


def quantized(gm) -> list[QuantConv2d]:
    return [conv for conv in map(gm.get_submodule, convolution_names(gm)) if conv.active]


def effective_sums(gm) -> list[float]:
    """Largest sum of pairs of every quantized convolution, as its weights are used now."""
    found = []
    for conv in quantized(gm):
        integers = integers_of(conv.effective_weight().detach(), weight_scale(conv.weight_range().detach()))
        found.append(largest_sum(integers, conv.groups))
    return found


def test_only_dialects_of_cpus_are_limited(paired, calibrated, net, images):
    plain = calibrated(net, dialect_name="trt")
    for name, limited in (("ort", True), ("openvino", True), ("openvino_signed", True), ("trt", False)):
        set_dialect_(paired, name)
        assert state_of(paired).paired == limited
        assert (max(effective_sums(paired)) <= 128) == limited
    for ours, theirs in zip(paired(images()), plain(images()), strict=True):
        assert torch.equal(ours, theirs), "TensorRT's weights do not depend on the CPU"


def test_sums_stay_within_16_bits_while_weights_move_under_frozen_ranges(paired):
    freeze_weight_ranges_(paired)
    with torch.no_grad():
        for name in convolution_names(paired):
            paired.get_submodule(name).weight.mul_(1.7)
    assert max(effective_sums(paired)) <= 128
    conv = paired.get_submodule(convolution_names(paired)[1])
    conv.effective_weight().sum().backward()
    moved = conv.weight.grad != 0
    inside = conv.effective_weight().detach() == integers_of(conv.weight.detach(), weight_scale(conv.weight_amax)) * (
        weight_scale(conv.weight_amax).view(-1, 1, 1, 1)
    )
    assert torch.equal(moved, inside) and not moved.all(), "no gradient where a limit holds"


def test_learned_scales_keep_sums_within_16_bits(paired, images):
    learn_ranges_(paired)
    with torch.no_grad():
        for name in convolution_names(paired):
            step = paired.get_submodule(name).weight_step
            if step is not None:
                step.mul_(0.6)
    before = [output.detach().clone() for output in paired(images())]
    sum(output.square().mean() for output in paired(images())).backward()
    assert all(conv.weight_step.grad.any() for conv in quantized(paired))
    fix_ranges_(paired)
    assert max(effective_sums(paired)) <= 128
    for ours, theirs in zip(paired(images()), before, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("frozen", [False, True])
def test_export_changes_no_number_in_any_dialect(paired, images, frozen):
    if frozen:
        freeze_weight_ranges_(paired)
        with torch.no_grad():
            for name in convolution_names(paired):
                paired.get_submodule(name).weight.mul_(1.5)
    wanted = {name: set_dialect_(copy.deepcopy(paired), name)(images()) for name in ("openvino", "ort")}
    ready = ready_for_export_(paired)
    for name, outputs in wanted.items():
        for ours, theirs in zip(set_dialect_(ready, name)(images()), outputs, strict=True):
            assert torch.equal(ours, theirs), name
    assert len(list(quantized(ready))) > 5
    for conv in quantized(ready):
        exported = torch.fake_quantize_per_channel_affine(
            conv.weight, conv.export_scale, conv.export_zero_point, 0, -128, 127
        )
        assert largest_sum(integers_of(exported.detach(), conv.export_scale), conv.groups) <= 128


def test_adaptive_rounding_keeps_sums_within_16_bits(paired, images):
    round_weights_(paired, images(2), steps=8)
    assert max(effective_sums(paired)) <= 128
    assert all(paired.get_submodule(name).frozen for name in convolution_names(paired))


def test_a_convolution_says_that_it_is_paired():
    conv = QuantConv2d.from_float(torch.nn.Conv2d(4, 4, 1))
    assert "paired=False" in repr(conv)
