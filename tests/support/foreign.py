"""ONNX files as other projects write them, around the patch detector."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.support import patch_detector

LAYOUTS = ("objectness", "objectness swapped", "scores", "scores swapped", "detections", "detections swapped")


def write_foreign(path: Path, layout: str, *, names: str | None = None, listed: int = 300, batch: int = 1) -> Path:
    """The patch detector with one output in a layout: its 16 cells, each found in its best class, of three.

    Args:
        names: text of the note; None: none.
        listed: length of the list for `detections`.
    """
    kind, swapped = layout.partition(" ")[0], layout.endswith("swapped")
    official = onnx.load(patch_detector.write_patch_detector(path, official=True, batch=batch))
    graph = official.graph
    del graph.output[:]
    constants = {"four": [4], "five": [5], "start": [0], "eight": [8], "last": [2], "one": [1]}
    tensors = [numpy_helper.from_array(np.array(value, np.int64), f"c_{name}") for name, value in constants.items()]
    graph.initializer.extend(tensors)
    add = graph.node.append
    if kind == "objectness":
        rows, values, count = "outputs", 8, 16
    else:
        add(helper.make_node("Slice", ["outputs", "c_start", "c_four", "c_last"], ["xywh"]))
        add(helper.make_node("Slice", ["outputs", "c_five", "c_eight", "c_last"], ["classes"]))
        rows, values, count = "plain" if kind == "scores" else "listed", 7, 16
    if kind == "scores":
        add(helper.make_node("Concat", ["xywh", "classes"], ["plain"], axis=2))
    elif kind == "detections":
        values, count = 6, listed
        _list_detections(graph, listed, batch)
    name = rows
    if swapped:
        add(helper.make_node("Transpose", [rows], ["swapped"], perm=[0, 2, 1]))
        name = "swapped"
    shape = (batch, values, count) if swapped else (batch, count, values)
    graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    del official.metadata_props[:]
    if names is not None:
        official.metadata_props.add(key="names", value=names)
    onnx.checker.check_model(official, full_check=True)
    path.write_bytes(official.SerializeToString())
    return path


def _list_detections(graph: onnx.GraphProto, listed: int, batch: int) -> None:
    add = graph.node.append
    half = np.array([[[-0.5, -0.5, 0.5, 0.5]]], np.float32)
    graph.initializer.append(numpy_helper.from_array(half, "halves"))
    graph.initializer.append(numpy_helper.from_array(np.array([0, 1, 0, 1], np.int64), "xyxy"))
    graph.initializer.append(numpy_helper.from_array(np.array([2, 3, 2, 3], np.int64), "whwh"))
    padding = np.zeros((batch, listed - 16, 6), np.float32)
    graph.initializer.append(numpy_helper.from_array(padding, "padding"))
    add(helper.make_node("Gather", ["xywh", "xyxy"], ["centres"], axis=2))
    add(helper.make_node("Gather", ["xywh", "whwh"], ["sizes"], axis=2))
    add(helper.make_node("Mul", ["sizes", "halves"], ["offsets"]))
    add(helper.make_node("Add", ["centres", "offsets"], ["corners"]))
    add(helper.make_node("ReduceMax", ["classes"], ["best"], axes=[2], keepdims=1))
    add(helper.make_node("ArgMax", ["classes"], ["which"], axis=2, keepdims=1))
    add(helper.make_node("Cast", ["which"], ["label"], to=TensorProto.FLOAT))
    add(helper.make_node("Concat", ["corners", "best", "label"], ["found"], axis=2))
    add(helper.make_node("Concat", ["found", "padding"], ["listed"], axis=1))
