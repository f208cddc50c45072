"""The runtime's counters give every convolution its time, and the model stays as it was."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from yolov6core.export.layer_times import openvino_layer_times
from yolov6core.quant.calibrate import collect, ranges
from yolov6core.quant.insert import insert_quantizers, set_ranges_, state_of
from yolov6core.quant.observers import Method

pytest.importorskip("openvino")


class Small(nn.Module):
    """Wide and narrow convolutions, and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.act = nn.Conv2d(3, 64, 3, padding=1), nn.ReLU()
        self.wide, self.narrow = nn.Conv2d(64, 64, 3, padding=1), nn.Conv2d(64, 8, 1)
        self.cls_pred, self.reg_pred = nn.Conv2d(8, 3, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.act(self.narrow(self.act(self.wide(self.act(self.stem(x))))))
        return self.cls_pred(x).flatten(2).transpose(1, 2), self.reg_pred(x).flatten(2).transpose(1, 2)


def test_every_convolution_has_its_time():
    torch.manual_seed(0)
    gm, images = insert_quantizers(Small().eval()), torch.rand(2, 3, 64, 64)
    set_ranges_(gm, ranges(collect(gm, [images]), Method("max")))
    state, before = state_of(gm), {name: value.clone() for name, value in gm.state_dict().items()}
    times = openvino_layer_times(gm, image_size=(64, 64), threads=1, runs=10)
    assert list(times.extra) == ["stem", "wide", "narrow", "cls_pred", "reg_pred"]
    assert times.int8 > 0
    # `wide` has nine tenths of the arithmetic, which integers make several times faster
    assert max(times.extra, key=times.extra.get) == "wide" and times.extra["wide"] > 0
    assert state_of(gm) == state
    assert all(torch.equal(value, before[name]) for name, value in gm.state_dict().items())
