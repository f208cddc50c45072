"""TensorRT's calibration cache as text."""

from __future__ import annotations

import struct

import pytest

from yolov6core.exchange.calibration_cache import read_cache, write_cache


def test_cache_text_is_what_tensorrt_writes():
    text = write_cache({"images": 1 / 127, "/Relu_output_0": 0.5}, version="8601")
    assert (
        text == f"TRT-8601-EntropyCalibration2\nimages: {struct.pack('>f', 1 / 127).hex()}\n/Relu_output_0: 3f000000\n"
    )
    assert read_cache(text) == {"images": pytest.approx(1 / 127), "/Relu_output_0": 0.5}


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_cache_refuses_impossible_scales(scale):
    with pytest.raises(ValueError, match="calibrate it again"):
        write_cache({"x": scale})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "TRT-8601-MinMaxCalibration\nx: 3f000000\n",
        "TRT-1-EntropyCalibration2\nx 3f\n",
        "TRT-1-EntropyCalibration2\nx: 3f00000z\n",
    ],
)
def test_broken_caches_are_refused(text):
    with pytest.raises(ValueError, match="not a calibration cache|broken line"):
        read_cache(text)
