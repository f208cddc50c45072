"""A file with the largest sums that integer convolutions can have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def largest_convolution(path: Path) -> None:
    """Write images of ones through an integer convolution of nothing but 127s whose result is exactly 255 steps."""
    constants = {
        "step": np.float32(1 / 255),
        "zero": np.uint8(0),
        "spread": np.full((64, 3, 1, 1), 127, np.int8),
        "largest": np.full((4, 64, 1, 1), 127, np.int8),
        "spread_step": np.full(64, 1 / (3 * 127), np.float32),
        "largest_step": np.full(4, 255 / (64 * 127), np.float32),
        "spread_zero": np.zeros(64, np.int8),
        "largest_zero": np.zeros(4, np.int8),
        "end_step": np.float32(1),
        "shape": np.array([1, 4, -1]),
    }
    nodes, value = [], "images"
    steps = ("step", "step", "end_step")
    for name, step in zip(("images", "spread", "largest"), steps, strict=True):
        if name != "images":
            nodes.append(
                helper.make_node("DequantizeLinear", [name, f"{name}_step", f"{name}_zero"], [f"{name}_w"], axis=0)
            )
            nodes.append(
                helper.make_node("Conv", [value, f"{name}_w"], [f"{name}_sum"], name=name, kernel_shape=[1, 1])
            )
            value = f"{name}_sum"
        nodes.append(helper.make_node("QuantizeLinear", [value, step, "zero"], [f"{name}_q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", step, "zero"], [f"{name}_r"]))
        value = f"{name}_r"
    nodes.append(helper.make_node("Reshape", [value, "shape"], ["flat"]))
    nodes.append(helper.make_node("Transpose", ["flat"], ["boxes"], perm=[0, 2, 1]))
    nodes.append(helper.make_node("Identity", ["boxes"], ["scores"]))
    graph = helper.make_graph(
        nodes,
        "largest",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 64, 4]) for name in ("boxes", "scores")],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
