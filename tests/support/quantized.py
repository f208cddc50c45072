"""A small network with everything the graph rules know, plain and calibrated."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from yolov6core.quant.calibrate import collect, ranges
from yolov6core.quant.insert import QuantizedModel, insert_quantizers, set_ranges_
from yolov6core.quant.observers import Method


class Everything(nn.Module):
    """ReLU and SiLU convolutions, depthwise, dilated and reflecting ones, max-pools, concats, an add, upsampling."""

    def __init__(self, act: type[nn.Module] = nn.SiLU) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, padding_mode="reflect")
        self.dilated = nn.Conv2d(8, 8, 3, padding=2, dilation=2, bias=False)
        self.pool = nn.MaxPool2d(3, stride=1, padding=1)
        self.fuse = nn.Conv2d(24, 8, 1)
        self.down = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.neck = nn.Conv2d(16, 8, 1)
        self.cls_pred = nn.Conv2d(8, 5, 1)
        self.reg_pred = nn.Conv2d(8, 4, 1)
        self.act, self.relu = act(inplace=True), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        stem = self.relu(self.stem(x))
        branch = self.relu(self.depthwise(stem))
        merged = stem + self.relu(self.dilated(branch))
        pooled = self.pool(merged)
        fused = self.relu(self.fuse(torch.cat((merged, pooled, self.pool(pooled)), 1)))
        down = self.relu(self.down(fused))
        neck = self.act(self.neck(torch.cat((self.up(down), fused), 1)))
        return self.cls_pred(neck).flatten(2).transpose(1, 2), self.reg_pred(neck).flatten(2).transpose(1, 2)


@pytest.fixture
def net() -> nn.Module:
    return Everything().eval()


@pytest.fixture
def relu_net() -> nn.Module:
    return Everything(nn.ReLU).eval()


@pytest.fixture
def images() -> Callable[..., Tensor]:
    """Seeded images [count, 3, 32, 32] in 0..1."""

    def make(count: int = 2, seed: int = 0) -> Tensor:
        return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))

    return make


@pytest.fixture
def calibrated(images: Callable[..., Tensor]) -> Callable[..., QuantizedModel]:
    """(network, insert_quantizers arguments) -> a quantized model calibrated by maximum."""

    def make(model: nn.Module, **arguments: object) -> QuantizedModel:
        gm = insert_quantizers(model, **arguments)
        set_ranges_(gm, ranges(collect(gm, [images(4, seed=1)], bins=256), Method("max")))
        return gm

    return make
