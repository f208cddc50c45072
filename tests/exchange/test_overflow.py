"""Convolutions whose sums of pairs leave 16 bits are found in any file."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from tests.support.largest_convolution import largest_convolution
from yolov6core.exchange.overflow import overflowing_convolutions


def test_files_of_other_tools_are_looked_through(tmp_path):
    largest_convolution(tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    assert overflowing_convolutions(model) == ["spread", "largest"]
    small = numpy_helper.from_array(np.full((4, 64, 1, 1), 64, np.int8), "largest")
    next(tensor for tensor in model.graph.initializer if tensor.name == "largest").CopyFrom(small)
    assert overflowing_convolutions(model) == ["spread"]
    for name in ("spread", "spread_zero"):
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.uint8), name))
    assert overflowing_convolutions(model) == [], "uint8 weights take exact kernels"
