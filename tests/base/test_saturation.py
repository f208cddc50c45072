"""Which weights a CPU without VNNI adds wrongly."""

from __future__ import annotations

import torch

from yolov6core.base.saturation import overflows


def test_minus_128_alone_does_not_overflow():
    weights = torch.zeros(1, 2, 1, 1, dtype=torch.int8)
    weights[0, 0] = -128
    assert not overflows(weights, 1)
    weights[0, 1] = -1
    assert overflows(weights, 1)
