"""Layers of a TensorRT engine back to convolutions, on names as TensorRT writes them, and what is done without GPUs."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn

from yolov6core.engines.runtime import RuntimeMissing
from yolov6core.export.tensorrt_layer_times import convolution_times, tensorrt_layer_times
from yolov6core.int8.layer_costs import layer_costs
from yolov6core.quant.calibrate import collect, ranges
from yolov6core.quant.insert import QuantizedModel, insert_quantizers, set_ranges_
from yolov6core.quant.observers import Method

CONVOLUTIONS = ["/network/stem/conv/Conv", "/network/a/Conv", "/network/a/Conv_1", "/network/b/Conv"]


def test_layers_are_named_after_their_nodes():
    times = {
        "Reformatting CopyNode for Input Tensor 0 to /network/stem/conv/QuantizeLinear": 9.0,
        "/network/stem/conv/weight + /network/stem/conv/QuantizeLinear_1 + /network/stem/conv/Conv + /act/Relu": 0.5,
        "/network/a/Conv || /network/b/Conv": 0.25,
        "/network/a/Conv_1 + PWN(/network/act/Sigmoid, /network/act/Mul)": 0.75,
        "/network/pool/MaxPool": 4.0,
    }
    assert convolution_times(CONVOLUTIONS, times) == [0.5, 0.125, 0.75, 0.125]


def test_a_convolution_that_runs_in_parts_has_their_sum():
    times = {f"{name} + part{number}": 1.0 for number in (1, 2) for name in CONVOLUTIONS}
    assert convolution_times(CONVOLUTIONS, times) == [2.0] * 4


def test_a_profile_without_names_is_refused():
    times = {"__myl_ConvQuan_0x1234": 1.0, "/network/a/Conv": 1.0}
    with pytest.raises(ValueError, match="lists 1 of 4 convolutions, /network/stem/conv/Conv is missing; count"):
        convolution_times(CONVOLUTIONS, times)


class Small(nn.Module):
    """Four convolutions and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.act = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()
        self.middle, self.cls_pred, self.reg_pred = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 3, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.act(self.middle(self.act(self.stem(x))))
        return self.cls_pred(x).flatten(2).transpose(1, 2), self.reg_pred(x).flatten(2).transpose(1, 2)


@pytest.fixture
def model() -> QuantizedModel:
    torch.manual_seed(0)
    gm = insert_quantizers(Small().eval())
    set_ranges_(gm, ranges(collect(gm, [torch.rand(2, 3, 16, 16)]), Method("max")))
    return gm


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_arithmetic_is_counted_without_a_gpu(model, caplog):
    with pytest.raises(RuntimeMissing, match="no CUDA device is visible here"):
        tensorrt_layer_times(model, image_size=(16, 16))
    with caplog.at_level(logging.WARNING):
        costs = layer_costs(model, (16, 16), runtime="tensorrt", threads=1)
    assert costs.unit == "arithmetic" and sum(costs.shares.values()) == pytest.approx(1)
    assert "no CUDA device is visible here" in caplog.text and "multiply-adds are counted instead" in caplog.text
    assert costs == layer_costs(model, (16, 16), runtime=None, threads=1)


@pytest.mark.gpu
def test_every_convolution_has_its_time_on_a_gpu(model):
    try:
        times = tensorrt_layer_times(model, image_size=(16, 16), runs=3)
    except RuntimeMissing as error:
        pytest.skip(str(error))
    assert list(times.extra) == ["stem", "middle", "cls_pred", "reg_pred"] and times.int8 > 0
