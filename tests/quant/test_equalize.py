"""Equalization moves factors and nothing else: the float function stays, the spread of channels shrinks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from yolov6core.models.blocks import deploy_
from yolov6core.models.detector import build_detector
from yolov6core.models.variants import VARIANTS
from yolov6core.quant.calibrate import collect, ranges
from yolov6core.quant.equalize import (
    CrossLayerGroup,
    equalize,
    find_cross_layer_groups,
    input_peaks,
    scaled_inputs,
    with_input_scales,
)
from yolov6core.quant.insert import insert_quantizers, set_ranges_
from yolov6core.quant.observers import Method
from yolov6core.quant.tensor_noise import tensor_noise


class Mobile(nn.Module):
    """Pointwise and depthwise convolutions behind hard-swish and ReLU, with channels of very different size."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.swish = nn.Conv2d(3, 8, 3, padding=1), nn.Hardswish(inplace=True)
        self.uneven = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.mix, self.relu = nn.Conv2d(8, 8, 1), nn.ReLU(inplace=True)
        self.smooth = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.left, self.right = nn.Conv2d(8, 6, 1), nn.Conv2d(8, 6, 1)
        spread = torch.logspace(-2, 2, 8).view(-1, 1, 1, 1)
        with torch.no_grad():
            for conv in (self.stem, self.mix):
                conv.weight.mul_(spread)
                conv.bias.mul_(spread.flatten())

    def forward(self, x: Tensor) -> Tensor:
        uneven = self.uneven(self.swish(self.stem(x)))
        smooth = self.smooth(self.relu(self.mix(uneven)))
        return self.left(smooth).sigmoid() + self.right(smooth)


@pytest.fixture
def mobile() -> nn.Module:
    return Mobile().eval().requires_grad_(False)


def worst_tensor(net: nn.Module, x: Tensor) -> float:
    """Signal-to-noise ratio in decibels of the noisiest tensor of the quantized network, calibrated by maximum."""
    gm = insert_quantizers(net, quantize_predictions=True)
    set_ranges_(gm, ranges(collect(gm, [x]), Method("max")))
    return tensor_noise(gm, [x])[0].sqnr_db


def test_groups_are_those_that_pass_a_factor(mobile, net):
    assert find_cross_layer_groups(mobile) == [
        CrossLayerGroup("uneven", ("mix",)),
        CrossLayerGroup("mix", ("smooth",)),
        CrossLayerGroup("smooth", ("left", "right")),
    ]
    # add, concat, transposed convolution, SiLU and network outputs let no factor pass
    assert find_cross_layer_groups(net) == [CrossLayerGroup("depthwise", ("dilated",))]


def test_relu6_and_shared_layers_form_no_group():
    conv = nn.Conv2d(3, 3, 1)
    assert find_cross_layer_groups(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU6(), nn.Conv2d(4, 4, 1))) == []
    assert find_cross_layer_groups(nn.Sequential(conv, nn.ReLU(), conv)) == []
    assert find_cross_layer_groups(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1, groups=2))) == []


@pytest.mark.parametrize("cross_layer", [False, True])
@pytest.mark.parametrize("depthwise", [False, True])
def test_the_function_stays_to_the_bit(mobile, net, images, cross_layer, depthwise):
    for network in (mobile, net):
        before = [tensor.clone() for tensor in network.state_dict().values()]
        even = equalize(network, input_peaks(network, [images()]), cross_layer=cross_layer, depthwise=depthwise)
        for ours, reference in zip(even(images(3, seed=5)), network(images(3, seed=5)), strict=True):
            assert torch.equal(ours, reference)
        assert all(torch.equal(a, b) for a, b in zip(before, network.state_dict().values(), strict=True))


def test_channels_become_even_and_quantization_better(mobile, images):
    x = images(4)
    even = equalize(mobile, input_peaks(mobile, [x]), cross_layer=True, depthwise=True)
    peaks = input_peaks(even, [x])
    for name in ("uneven", "smooth"):
        assert float(peaks[name].max() / peaks[name].min()) <= 2.001  # powers of two
    assert scaled_inputs(even.state_dict()) == ["uneven"], "behind ReLU the factors fold into the weights"
    assert worst_tensor(even, x) > worst_tensor(mobile, x) + 5


def test_peaks_are_those_of_all_batches(mobile, images):
    x = images(4)
    peaks, seen = input_peaks(mobile, x.split(1)), mobile.swish(mobile.stem(x)).abs().amax(dim=(0, 2, 3))
    assert set(peaks) == {"stem", "uneven", "mix", "smooth", "left", "right"}
    torch.testing.assert_close(peaks["uneven"], seen)
    with pytest.raises(ValueError, match="at least one image"):
        input_peaks(mobile, [])


def test_dead_channels_keep_the_function(mobile, images):
    mobile.stem.weight[2] = 0
    mobile.stem.bias[2] = 0
    mobile.mix.weight[3] = 0
    mobile.mix.bias[3] = -1
    even = equalize(mobile, input_peaks(mobile, [images()]))
    assert all(torch.isfinite(tensor).all() for tensor in even.state_dict().values())
    assert torch.equal(even(images()), mobile(images()))


@pytest.mark.slow
def test_a_state_dict_says_what_was_scaled(images):
    """Loading from a file: build, insert the scales that the keys name, load."""
    spec = VARIANTS["yolov6_lite_s"]
    torch.manual_seed(0)
    lite = deploy_(build_detector(spec, num_classes=1).eval()).requires_grad_(False)
    x = torch.rand(1, 3, 64, 64)
    even = equalize(lite, input_peaks(lite, [x]))
    gm = insert_quantizers(even)
    set_ranges_(gm, ranges(collect(gm, [x]), Method("mse")))
    state = gm.state_dict()
    fresh = deploy_(build_detector(spec, num_classes=1).eval())
    again = insert_quantizers(with_input_scales(fresh, scaled_inputs(state)))
    again.load_state_dict(state)
    assert len(scaled_inputs(state)) > 20
    for ours, reference in zip(again.eval()(x), gm.eval()(x), strict=True):
        assert torch.equal(ours, reference)
    assert with_input_scales(fresh, []) is fresh
