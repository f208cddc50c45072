"""Bias correction, adaptive rounding, and the table of noisy tensors."""

from __future__ import annotations

import copy

import pytest
import torch

from yolov6core.base.saturation import channel_amax
from yolov6core.quant.adaround import round_weights_
from yolov6core.quant.bias_correction import correct_biases_
from yolov6core.quant.insert import (
    convolution_names,
    freeze_weight_ranges_,
    get_ranges,
    quantizable_names,
    set_ranges_,
)
from yolov6core.quant.paired_run import visit_convolutions
from yolov6core.quant.tensor_noise import tensor_noise
from yolov6core.quant.weights import weight_scale


def narrowed(gm):
    """Ranges that clip, so that there is a mean error to correct."""
    set_ranges_(gm, {name: (low / 2, high / 2) for name, (low, high) in get_ranges(gm).items()})
    return gm


def visited(gm, x):
    """Convolution -> (input, result, float result), nothing changed."""
    seen = {}

    def note(name, source, result, expected):
        seen[name] = (source, result.clone(), expected.clone())
        return result

    visit_convolutions(gm, x, note)
    return seen


def test_both_networks_are_run_as_they_are(net, calibrated, images):
    gm, x = calibrated(net), images()
    seen = visited(gm, x)
    assert list(seen) == quantizable_names(gm)
    stem = gm.get_submodule("stem")
    torch.testing.assert_close(seen["stem"][2], net.stem(x))
    assert torch.equal(seen["stem"][1], stem(seen["stem"][0]))
    assert not torch.equal(seen["stem"][0], x), "the quantized network reads rounded images"
    expected = net.stem(x).relu()
    torch.testing.assert_close(seen["depthwise"][2], net.depthwise(expected))
    assert all(conv.enabled for conv in gm.modules() if hasattr(conv, "enabled"))


def test_no_channel_keeps_a_mean_error(net, calibrated, images):
    gm, x = narrowed(calibrated(net.requires_grad_(False))), images(4)
    before = {name: (result - expected).mean(dim=(0, 2, 3)) for name, (_, result, expected) in visited(gm, x).items()}
    original = copy.deepcopy(gm)
    shifts = correct_biases_(gm, x)
    assert list(shifts) == quantizable_names(gm) and shifts["fuse"] > 1e-3
    assert shifts["stem"] == pytest.approx(float(before["stem"].abs().max()), rel=1e-4)
    assert gm.dilated.bias is not None, "a layer without bias gets one"
    assert torch.equal(gm.cls_pred.bias, net.cls_pred.bias), "float layers are left alone"
    references = {name: expected for name, (_, _, expected) in visited(original, x).items()}
    for name, (_, result, _) in visited(gm, x).items():
        error = (result - references[name]).mean(dim=(0, 2, 3))
        assert float(error.abs().max()) < 1e-5, name
        assert float(error.abs().max()) <= float(before[name].abs().max()) + 1e-6


@pytest.mark.parametrize("frozen", [False, True])
def test_rounding_never_makes_a_layer_worse(net, calibrated, images, frozen):
    gm, x = calibrated(net.requires_grad_(False)), images(4)
    if frozen:
        freeze_weight_ranges_(gm)
    before = {name: gm.get_submodule(name).weight.clone() for name in convolution_names(gm)}
    errors = round_weights_(gm, x, steps=40)
    assert list(errors) == quantizable_names(gm)
    assert all(error.adaptive <= error.nearest for error in errors.values())
    assert sum(error.adaptive < error.nearest for error in errors.values()) >= len(errors) / 2
    for name, (_, result, expected) in visited(gm, x).items():
        assert float((result - expected).square().mean()) <= errors[name].nearest * 1.2 + 1e-12
        weight, amax = gm.get_submodule(name).weight, channel_amax(before[name])
        steps = weight_scale(amax).view(-1, 1, 1, 1)
        assert float(((weight - before[name]).detach().abs() / steps).max()) < 1.0 + 1e-4, "up or down, no further"
        torch.testing.assert_close(channel_amax(weight), amax)


def test_rounding_depends_on_its_seed_only(net, calibrated, images):
    results = []
    for _ in range(2):
        gm = calibrated(net.requires_grad_(False))
        round_weights_(gm, images(4), steps=5)
        results.append(gm.fuse.weight.clone())
    assert torch.equal(*results)


def test_the_noisiest_tensor_is_the_one_with_a_lost_channel(net, calibrated, images):
    gm = calibrated(net.requires_grad_(False))
    low, high = get_ranges(gm)["relu_1"]
    unchanged = {row.tensor: row for row in tensor_noise(gm, [images(2), images(1, seed=3)])}
    assert set(unchanged) == {placement.value for placement in gm.meta["quant"].placements}
    assert all(20 < row.sqnr_db <= 100 and row.worst_channel_db <= row.sqnr_db for row in unchanged.values())
    set_ranges_(gm, get_ranges(gm) | {"relu_1": (low, 500 * high)})
    worst = tensor_noise(gm, [images()])[0]
    assert (worst.tensor, worst.group) == ("relu_1", "relu_1") and worst.sqnr_db < 5
    with pytest.raises(ValueError, match="at least one image"):
        tensor_noise(gm, [])
