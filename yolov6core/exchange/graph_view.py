"""A view of an ONNX graph: makers and readers of each tensor, values of constants, quantized convolutions."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

from yolov6core.exchange.onnx_notes import QUANTIZED, get_note

if TYPE_CHECKING:
    import onnx

OPENVINO_DOMAIN = "org.openvinotoolkit"
SAME_RANGE_OPS = ("Concat", "MaxPool", "DepthToSpace")
"""Operators that keep the scale: their output values are input values."""
CONVOLUTIONS = ("Conv", "ConvTranspose")
_MOVING_OPS = ("Reshape", "Resize", "Slice", "Split", "Transpose")


class GraphView:
    """Look-ups over one graph. Make a new one after nodes were added or removed."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.graph = model.graph
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        self.producer = {name: node for node in self.graph.node for name in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.graph.node:
            for name in node.input:
                self.readers[name].append(node)

    def array(self, name: str) -> np.ndarray:
        """The value of a constant. Raises KeyError if `name` is not a constant."""
        from onnx import numpy_helper

        return numpy_helper.to_array(self.constants[name])

    def set_array(self, name: str, value: np.ndarray) -> None:
        """Add a constant, or replace the value of one."""
        from onnx import numpy_helper

        tensor = numpy_helper.from_array(np.asarray(value, order="C"), name)
        if name in self.constants:
            self.constants[name].CopyFrom(tensor)
        else:
            self.constants[name] = self.graph.initializer.add()
            self.constants[name].CopyFrom(tensor)

    def replace_uses(self, old: str, new: str) -> None:
        """Let every reader of `old` read `new`."""
        for node in self.readers.pop(old, []):
            for index, name in enumerate(node.input):
                if name == old:
                    node.input[index] = new
            self.readers[new].append(node)

    def rebuild(self, nodes: list[onnx.NodeProto]) -> None:
        """Replace all nodes by `nodes`, then drop nodes, constants and shape notes that no output needs."""
        needed = {output.name for output in self.graph.output}
        kept = []
        for node in reversed(nodes):
            if needed.intersection(node.output):
                needed.update(node.input)
                kept.append(node)
        copies = [type(node).FromString(node.SerializeToString()) for node in reversed(kept)]
        del self.graph.node[:]
        self.graph.node.extend(copies)
        fields: tuple[Any, ...] = (self.graph.initializer, self.graph.value_info)
        for field in fields:
            stays = [item for item in field if item.name in needed]
            copied = [type(item).FromString(item.SerializeToString()) for item in stays]
            del field[:]
            field.extend(copied)


def groups_of(node: onnx.NodeProto) -> int:
    """Groups of a convolution node."""
    return next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)


def integer_types(model: onnx.ModelProto) -> set[str]:
    """Integer types of the activations: 'int8', 'uint8', and 'fake' for OpenVINO's FakeQuantize."""
    view = GraphView(model)
    quantizers = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    kinds = {view.array(node.input[2]).dtype.name for node in quantizers if node.input[0] not in view.constants}
    return kinds | {"fake" for node in model.graph.node if node.domain == OPENVINO_DOMAIN}


def convolutions(model: onnx.ModelProto) -> dict[str, bool]:
    """Name of each convolution -> whether it is quantized, in graph order.

    A convolution is quantized if its data and its weights come from a Q/DQ or FakeQuantize, directly or through
    operators that do not change values. A file whose scales stand in a calibration cache names those that are meant.
    """
    meant = _meant(model)
    on_grid: set[str] = set()
    found: dict[str, bool] = {}
    for node in model.graph.node:
        rounds = node.op_type in ("DequantizeLinear", "FakeQuantize")
        moved = node.input if node.op_type == "Concat" else node.input[:1]
        if rounds or (node.op_type in (*SAME_RANGE_OPS, *_MOVING_OPS) and on_grid.issuperset(moved)):
            on_grid.update(node.output)
        elif node.op_type in CONVOLUTIONS:
            name = node.name if node.name and node.name not in found else node.output[0]
            found[name] = name in meant or on_grid.issuperset(node.input[:2])
    return found


def _meant(model: onnx.ModelProto) -> set[str]:
    """Names in the note QUANTIZED; none if another program wrote something else there."""
    try:
        names = json.loads(get_note(model, QUANTIZED, "[]"))
    except ValueError:
        return set()
    return {name for name in names if isinstance(name, str)} if isinstance(names, list) else set()


def count_quantized(model: onnx.ModelProto) -> tuple[int, int]:
    """Count (quantized convolutions, all convolutions) of a graph; see `convolutions`."""
    found = convolutions(model)
    return sum(found.values()), len(found)


def made_before_convolutions(model: onnx.ModelProto) -> set[str]:
    """Results of convolutions and of all nodes that a convolution depends on."""
    needed: set[str] = set()
    made: set[str] = set()
    for node in reversed(model.graph.node):
        if node.op_type in CONVOLUTIONS or needed.intersection(node.output):
            needed.update(node.input)
            made.update(node.output)
    return made
