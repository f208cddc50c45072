"""Transposed convolutions as 1 x 1 convolutions with a pixel shuffle."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from yolov6core.quant.insert import insert_quantizers, quantizers_off
from yolov6core.quant.upsampling import PixelUpsampling, is_pixelwise, split_upsampling_


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("factor", [2, 3])
def test_pixels_become_the_squares_of_a_transposed_convolution(factor, bias):
    layer = nn.ConvTranspose2d(5, 7, factor, stride=factor, bias=bias).double()
    x = torch.randn(2, 5, 3, 4, dtype=torch.double)
    torch.testing.assert_close(PixelUpsampling.from_transposed(layer)(x), layer(x), atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "stride": 2},
        {"kernel_size": 2, "stride": 1},
        {"kernel_size": (2, 4), "stride": (2, 4)},
        {"kernel_size": 2, "stride": 2, "padding": 1},
        {"kernel_size": 2, "stride": 2, "output_padding": 1},
        {"kernel_size": 2, "stride": 2, "dilation": 2},
        {"kernel_size": 2, "stride": 2, "groups": 2},
    ],
)
def test_other_transposed_convolutions_stay(options):
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 4, **options))
    split_upsampling_(net)
    assert isinstance(net[1], nn.ConvTranspose2d) and not is_pixelwise(net[1])


def test_no_random_numbers_are_taken_and_no_weights_shared(net, images):
    before = torch.random.get_rng_state()
    gm = insert_quantizers(net)
    assert torch.equal(torch.random.get_rng_state(), before)
    expected = net(images())
    with torch.no_grad():
        gm.up.conv.weight.zero_()
    assert all(torch.equal(a, b) for a, b in zip(net(images()), expected, strict=True))
    with quantizers_off(gm):
        assert not torch.allclose(gm(images())[0], expected[0])
