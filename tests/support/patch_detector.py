"""A detector without weights: the mean red, green and blue of each 16 x 16 cell are its scores, the cells its boxes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE = 64
CELL = 16
NAMES = ["red", "green", "blue"]


def write_patch_detector(path: Path, *, official: bool = False, batch: int = 1) -> Path:
    """Write it as ONNX: outputs boxes [B, 16, 4] and scores [B, 16, 3], or one output in the official layout."""
    side = SIZE // CELL
    rows, columns = np.mgrid[:side, :side].reshape(2, -1) * CELL
    corners = np.stack((columns, rows, columns + CELL, rows + CELL), axis=1).astype(np.float32)
    centres = np.concatenate(((corners[:, :2] + corners[:, 2:]) / 2, np.full((side**2, 2), CELL, np.float32)), axis=1)
    cells = np.concatenate((centres, np.ones((side**2, 1), np.float32)), axis=1) if official else corners
    nodes = [
        helper.make_node("AveragePool", ["images"], ["pooled"], kernel_shape=[CELL, CELL], strides=[CELL, CELL]),
        helper.make_node("Reshape", ["pooled", "shape"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["scores"], perm=[0, 2, 1]),
    ]
    if official:
        nodes.append(helper.make_node("Concat", ["cells", "scores"], ["outputs"], axis=2))
        outputs = {"outputs": (batch, side**2, 8)}
    else:
        # OpenCV and OpenVINO treat an output that depends on no input in their own ways
        nodes.append(helper.make_node("ReduceSum", ["scores", "last"], ["sums"], keepdims=1))
        nodes.append(helper.make_node("Mul", ["sums", "zero"], ["nothing"]))
        nodes.append(helper.make_node("Add", ["cells", "nothing"], ["boxes"]))
        outputs = {"boxes": (batch, side**2, 4), "scores": (batch, side**2, 3)}
    constants = {
        "shape": np.array([batch, 3, side**2], np.int64),
        "cells": np.tile(cells[None].astype(np.float32), (batch, 1, 1)),
        "last": np.array([2], np.int64),
        "zero": np.array([0], np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "patches",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, (batch, 3, SIZE, SIZE))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    entry = model.metadata_props.add()
    entry.key, entry.value = "names", json.dumps(NAMES)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())
    return path


def picture(colour: tuple[int, int, int], column: int, row: int, size: int = SIZE) -> np.ndarray:
    """Black uint8 BGR [size, size, 3] with one cell of the grid in a colour."""
    image = np.zeros((size, size, 3), np.uint8)
    cell = size // (SIZE // CELL)
    image[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell] = colour
    return image
