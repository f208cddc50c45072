"""Learned scales: LSQ's gradient, and the ranges before and after learning."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from yolov6core.quant.fake_quant import QuantConv2d
from yolov6core.quant.insert import (
    fix_ranges_,
    get_ranges,
    insert_quantizers,
    learn_ranges_,
    ready_for_export_,
    set_dialect_,
    set_float_layers_,
)
from yolov6core.quant.learned_scale import learned_quantize


def by_hand(x: Tensor, step: Tensor, low: int, high: int) -> tuple[Tensor, Tensor]:
    """Equation 3 of 1902.08153, value by value: rounded x, and d rounded / d step."""
    ratio = x / step
    slope = torch.where(ratio <= low, low, torch.where(ratio >= high, high, ratio.round() - ratio))
    return ratio.round().clamp(low, high) * step, slope


@pytest.mark.parametrize(("low", "high"), [(-128, 127), (0, 255), (-85, 170), (-7, 7)])
@pytest.mark.parametrize("per_channel", [False, True])
def test_values_and_gradients_are_those_of_the_paper(low, high, per_channel):
    x = (torch.randn(4, 3, 5, 5, dtype=torch.float32) * 3).requires_grad_()
    spread = 2.0 / high
    step = (torch.rand(4, 1, 1, 1) * spread + spread if per_channel else torch.tensor(spread)).requires_grad_()
    factor = torch.randn(4, 3, 5, 5)
    rounded = learned_quantize(x, step, low=low, high=high, sharing=75)
    expected, slope = by_hand(x.detach(), step.detach(), low, high)
    assert ((rounded - expected).abs() > 1e-5).sum() <= 1, "at most one tie"
    rounded.backward(factor)
    by_step = (factor * slope).sum_to_size(step.shape) / (75 * high) ** 0.5
    torch.testing.assert_close(step.grad, by_step, rtol=1e-3, atol=1e-4)
    ratio = x.detach() / step.detach()
    assert torch.equal(x.grad, factor * ((ratio > low) & (ratio < high)))


def test_a_step_that_fell_below_zero_still_quantizes():
    step = torch.tensor(-1.0, requires_grad=True)
    rounded = learned_quantize(torch.randn(10), step, low=-128, high=127, sharing=10)
    assert rounded.isfinite().all() and rounded.abs().max() < 1e-4


@pytest.mark.parametrize("dialect_name", ["trt", "ort"])
def test_learning_starts_and_ends_at_the_same_numbers(net, calibrated, images, dialect_name):
    gm = set_float_layers_(calibrated(net, dialect_name=dialect_name), ["stem", "cls_pred", "reg_pred"])
    before, keys = gm(images()), gm.state_dict().keys()
    learn_ranges_(gm)
    steps = {name for name in gm.state_dict() if name.endswith("step")}
    assert "fuse.weight_step" in steps and "ranges.x.step" in steps and "stem.weight_step" not in steps
    during = gm(images())
    fix_ranges_(gm)
    assert gm.state_dict().keys() == keys
    for first, second, third in zip(before, during, gm(images()), strict=True):
        assert torch.equal(first, second)
        assert (third - first).norm() < 0.01 * first.norm()  # the scales may be one unit in the last place away
    assert gm.stem.frozen, "one flag is stored for all convolutions, float ones included"


def test_learned_scales_become_ranges(net, calibrated, images):
    gm = calibrated(net)
    old = get_ranges(gm)
    learn_ranges_(gm)
    with torch.no_grad():
        gm.ranges["relu"].step.mul_(0.5)
        gm.fuse.weight_step.mul_(2)
    copied = copy.deepcopy(gm)
    expected = gm(images())
    fix_ranges_(gm)
    assert get_ranges(gm)["relu"] == pytest.approx([0.5 * bound for bound in old["relu"]])
    assert torch.allclose(gm.fuse.weight_amax, 2 * gm.fuse.weight.detach().abs().amax(dim=(1, 2, 3)))
    for model in (gm, ready_for_export_(copied)):
        for ours, theirs in zip(model(images()), expected, strict=True):
            assert (ours - theirs).norm() < 0.01 * theirs.norm()
    assert not list(name for name in copied.state_dict() if name.endswith("step"))


@pytest.mark.slow
def test_a_bad_range_is_learned_back(net, calibrated, images):
    """Ranges four times too wide leave a fifth of the levels; learning scales alone has to mend most of it."""
    gm = calibrated(net)
    with torch.no_grad():
        target = net(images())
    for module in gm.ranges.values():
        module.set_(4 * float(module.amin), 4 * float(module.amax))
    learn_ranges_(gm.train())
    steps = [parameter for name, parameter in gm.named_parameters() if name.endswith("step")]
    optimizer = torch.optim.Adam(steps, lr=2e-4)
    losses = []
    for _ in range(80):
        loss = sum((ours - theirs).square().mean() for ours, theirs in zip(gm(images()), target, strict=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[-5:]) < 0.5 * losses[0]


def test_learning_without_calibration_or_across_dialects_is_refused(net, calibrated):
    with pytest.raises(ValueError, match="not calibrated"):
        learn_ranges_(insert_quantizers(net))
    gm = calibrated(net)
    learn_ranges_(gm)
    with pytest.raises(ValueError, match="call fix_ranges_ before"):
        set_dialect_(gm, "ort")
    assert isinstance(gm.stem, QuantConv2d) and gm.stem.weight_step.shape == (8,)
