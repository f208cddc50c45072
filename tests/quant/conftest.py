"""Fixtures of the tests of quant."""

from tests.support.quantized import calibrated, images, net, relu_net

__all__ = ["calibrated", "images", "net", "relu_net"]
