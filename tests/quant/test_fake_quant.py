"""Fake quantization equals the integer round trip and torch's operators, bit for bit, gradients included."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from yolov6core.base.saturation import channel_amax
from yolov6core.quant.fake_quant import ActivationQuantizer, QuantConv2d, fake_quantize
from yolov6core.quant.spec import DIALECTS, INT8, MIN_SCALE, UINT8, Grid, dialect
from yolov6core.quant.weights import fake_quantize_weights, weight_scale

GRIDS = {"int8": INT8, "uint8": UINT8}


def some_values(seed: int) -> tuple[torch.Tensor, float, float]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4, 3, 9, 9, generator=generator) * 10.0 ** (seed % 7 - 3)
    if seed % 2:
        x = x.relu()
    keep = 0.3 + 0.7 * float(torch.rand(1, generator=generator))
    return x, float(x.min()) * keep, float(x.max()) * keep


def to_integers(x: np.ndarray, scale: float, zero_point: int, grid: Grid) -> np.ndarray:
    steps = np.rint(x * (np.float32(1) / np.float32(scale))).astype(np.int64) + zero_point
    return steps.clip(grid.low, grid.high).astype(np.int8 if grid is INT8 else np.uint8)


def to_reals(integers: np.ndarray, scale: float, zero_point: int) -> torch.Tensor:
    return torch.from_numpy((integers.astype(np.int32) - zero_point).astype(np.float32) * np.float32(scale))


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_equals_the_integer_round_trip_and_torch(grid):
    for seed in range(60):
        x, amin, amax = some_values(seed)
        scale, zero_point = grid.scale_and_zero_point(amin, amax)
        ours = x.clone().requires_grad_()
        theirs = x.clone().requires_grad_()
        rounded = fake_quantize(ours, scale, zero_point, grid)
        reference = torch.fake_quantize_per_tensor_affine(theirs, scale, zero_point, grid.low, grid.high)
        integers = to_integers(x.numpy(), scale, zero_point, grid)
        assert torch.equal(rounded, reference), f"seed {seed}"
        assert torch.equal(rounded, to_reals(integers, scale, zero_point)), f"seed {seed}"
        weights = torch.randn_like(x)
        rounded.backward(weights)
        reference.backward(weights)
        assert torch.equal(ours.grad, theirs.grad), f"seed {seed}"


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("scale", [0.25, 0.1, 3.0e-5, 7.7e4])
@pytest.mark.parametrize("zero_point", [0, 85])
def test_ties_and_ends_of_the_grid_agree_with_torch(grid, scale, zero_point):
    steps = torch.arange(-400, 400, dtype=torch.float32) / 2
    near = (
        torch.nextafter(steps * scale, torch.tensor(math.inf)),
        torch.nextafter(steps * scale, torch.tensor(-math.inf)),
    )
    x = torch.cat((steps * scale, *near))
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    rounded = fake_quantize(ours, scale, zero_point, grid)
    reference = torch.fake_quantize_per_tensor_affine(theirs, scale, zero_point, grid.low, grid.high)
    assert torch.equal(rounded, reference)
    rounded.sum().backward()
    reference.sum().backward()
    assert torch.equal(ours.grad, theirs.grad)


def test_half_precision_is_rounded_in_float32():
    x = torch.linspace(-1, 1, 511).half()
    assert torch.equal(fake_quantize(x, 1 / 127, 0, INT8), fake_quantize(x.float(), 1 / 127, 0, INT8).half())


@pytest.mark.parametrize("clips", [False, True])
def test_weights_equal_torch_and_never_use_minus_128(clips):
    for seed in range(20):
        weight = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(seed))
        weight[2] = 0
        amax = channel_amax(weight) * (0.5 if clips else 1.0)
        scale = weight_scale(amax)
        ours, theirs = weight.clone().requires_grad_(), weight.clone().requires_grad_()
        rounded = fake_quantize_weights(ours, scale, clips=clips)
        reference = torch.fake_quantize_per_channel_affine(
            theirs, scale, torch.zeros(6, dtype=torch.int32), 0, -127, 127
        )
        assert torch.equal(rounded, reference)
        integers = torch.round(rounded / scale.view(-1, 1, 1, 1))
        assert integers.min() >= -127 and torch.equal(rounded[2], torch.zeros(4, 3, 3))
        factor = torch.randn_like(weight)
        rounded.backward(factor)
        reference.backward(factor)
        assert torch.equal(ours.grad, theirs.grad)


def test_ranges_of_zero_and_tiny_ones_give_positive_scales():
    for grid in GRIDS.values():
        assert grid.scale_and_zero_point(0.0, 0.0) == (1.0, 0)
        assert grid.scale_and_zero_point(-1e-30, 1e-30)[0] == MIN_SCALE
    assert weight_scale(torch.tensor([0.0, 1e-30, 127.0])).tolist() == [1.0, MIN_SCALE, 1.0]
    assert torch.equal(fake_quantize(torch.zeros(3), 1.0, 0, INT8), torch.zeros(3))


def test_grids_follow_the_sign_of_the_range():
    assert INT8.scale_and_zero_point(-1.0, 2.0) == (float(torch.tensor(2 / 127)), 0)
    assert UINT8.scale_and_zero_point(0.0, 2.0) == (float(torch.tensor(2 / 255)), 0)
    assert UINT8.scale_and_zero_point(0.5, 2.0) == (float(torch.tensor(2 / 255)), 0)  # zero padding must be exact
    assert UINT8.scale_and_zero_point(-1.0, 2.0) == (float(torch.tensor(3 / 255)), 85)
    assert UINT8.scale_and_zero_point(-2.0, -1.0) == (float(torch.tensor(2 / 255)), 255)


@pytest.mark.parametrize("bounds", [(math.nan, 1.0), (0.0, math.inf), (1.0, 0.0)])
def test_ranges_that_are_no_intervals_are_refused(bounds):
    with pytest.raises(ValueError, match="interval"):
        INT8.scale_and_zero_point(*bounds)


def test_values_check_themselves():
    with pytest.raises(ValueError, match="must hold 0"):
        Grid(1, 5, symmetric=False)
    with pytest.raises(ValueError, match="negative"):
        Grid(0, 255, symmetric=True)
    with pytest.raises(ValueError, match="trt, openvino, ort"):
        dialect("tensorrt")
    assert set(DIALECTS) == {"trt", "openvino", "ort", "openvino_signed", "qdq", "qdq_signed", "trt_all"}


def test_a_range_survives_copies_and_state_dicts():
    first = ActivationQuantizer(INT8)
    with pytest.raises(ValueError, match="not calibrated"):
        first(torch.ones(1))
    first.set_(-1.0, 3.0)
    second = ActivationQuantizer(INT8)
    second.load_state_dict(first.state_dict())
    x = torch.randn(100) * 2
    assert torch.equal(second(x), first(x)) and torch.equal(copy.deepcopy(first)(x), first(x))
    first.enabled = False
    assert first(x) is x


def test_a_relu_in_a_signed_group_keeps_zero_point_0():
    shared = ActivationQuantizer(UINT8)
    shared.set_(-1.0, 2.0)
    x = torch.linspace(0, 2, 100)
    assert torch.equal(
        shared(x, non_negative=True), fake_quantize(x, UINT8.scale_and_zero_point(0.0, 2.0)[0], 0, UINT8)
    )
    assert shared.zero_point == 85


@pytest.mark.parametrize(
    "arguments",
    [
        {"groups": 4},
        {"groups": 4, "dilation": 2, "padding": 2, "bias": False},
        {"padding": 1, "padding_mode": "reflect", "stride": 2},
        {"padding": "same"},
    ],
)
def test_quantized_convolutions_keep_everything_of_the_original(arguments):
    conv = nn.Conv2d(4, 8, 3, **arguments)
    x = torch.randn(2, 4, 9, 9)
    state = torch.get_rng_state()
    quantized = QuantConv2d.from_float(conv)
    assert torch.equal(torch.get_rng_state(), state), "no random numbers may be taken"
    rounded = copy.deepcopy(conv)
    rounded.weight.data = fake_quantize_weights(conv.weight, weight_scale(channel_amax(conv.weight)), clips=False)
    assert torch.equal(quantized(x), rounded(x))
    quantized.active = False
    assert torch.equal(quantized(x), conv(x))


def test_frozen_weight_ranges_hold_while_weights_move():
    conv = QuantConv2d.from_float(nn.Conv2d(2, 3, 3))
    conv.freeze_ranges_()
    limit = conv.weight_amax.clone()
    with torch.no_grad():
        conv.weight.mul_(2)
    before = conv.effective_weight().detach().clone()
    assert torch.allclose(channel_amax(before), limit)
    conv.prepare_export_()
    assert torch.equal(conv.effective_weight(), before), "preparing must not change the result of the convolution"
    exported = torch.fake_quantize_per_channel_affine(
        conv.weight, conv.export_scale, conv.export_zero_point, 0, -128, 127
    )
    assert torch.equal(exported, before)
    conv.frozen = False
    with torch.no_grad():
        conv.weight.mul_(2)
    assert torch.allclose(channel_amax(conv.effective_weight()), 2 * limit)
