"""Pixel shuffles and SiLU in forms that suit integer kernels. Passes change the model in place, but not its numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from yolov6core.exchange.graph_view import GraphView

if TYPE_CHECKING:
    import onnx

ORT_DOMAIN = "com.microsoft"
_PER_VALUE = ("QuantizeLinear", "DequantizeLinear", "FakeQuantize", "Relu", "Clip")
"""Elementwise operators between a convolution and its shuffle, the same for every channel."""


def blocks_first(model: onnx.ModelProto) -> int:
    """Change pixel shuffles behind convolutions from CRD to DCR, which reads whole pixels; returns the number of them.

    In the channels-last layout of integer kernels, DCR moves rows of channels instead of single bytes. The output
    channels of the convolution are permuted to match.
    """
    view = GraphView(model)
    count = 0
    for node in model.graph.node:
        mode = next((item for item in node.attribute if item.name == "mode"), None)
        conv = _producing_conv(view, node.input[0]) if node.op_type == "DepthToSpace" else None
        if conv is None or mode is None or mode.s != b"CRD":
            continue
        names, readers = _channel_constants(view, conv)
        if any(node.output[0] not in readers for name in names for node in view.readers[name]):
            continue  # another node shares the weights
        channels = next(view.array(name).shape[0] for name in names if view.array(name).ndim == 4)
        block = next(item.i for item in node.attribute if item.name == "blocksize")
        order = np.arange(channels).reshape(-1, block * block).T.reshape(-1)
        for name in names:
            if view.array(name).shape[0] == channels:
                view.set_array(name, view.array(name)[order])
        mode.s = b"DCR"
        count += 1
    return count


def _producing_conv(view: GraphView, name: str) -> onnx.NodeProto | None:
    """The convolution whose result reaches a tensor through elementwise operators, all without other readers."""
    node = view.producer.get(name)
    while node is not None and len(view.readers[name]) == 1:
        if node.op_type == "Conv":
            return node
        name = node.input[0]
        node = view.producer.get(name) if node.op_type in _PER_VALUE else None
    return None


def _channel_constants(view: GraphView, conv: onnx.NodeProto) -> tuple[set[str], set[str]]:
    """Names of the constants behind weights and bias, scalars left out, and of the results of nodes between them."""
    names: set[str] = set()
    readers, pending = {conv.output[0]}, list(conv.input[1:])
    while pending:
        name = pending.pop()
        if name not in view.constants:
            readers.add(name)
            pending += view.producer[name].input
        elif view.array(name).ndim:
            names.add(name)
    return names, readers


def shuffle_integers(model: onnx.ModelProto) -> int:
    """Write pixel shuffles of integers as transposes and reshapes, for ONNX Runtime; returns the number of shuffles.

    DepthToSpace of ONNX Runtime takes float only. The outer transposes written here cancel out against those around its
    integer convolutions, so that data stay channels-last. Needs `blocks_first`.
    """
    from onnx import helper, shape_inference

    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in shape_inference.infer_shapes(model).graph.value_info
    }
    view = GraphView(model)
    nodes, count = [], 0
    for node in model.graph.node:
        modes = [item.s for item in node.attribute if item.name == "mode"]
        dequantize = view.producer.get(node.input[0]) if node.op_type == "DepthToSpace" and modes == [b"DCR"] else None
        if dequantize is None or dequantize.op_type != "DequantizeLinear":
            nodes.append(node)
            continue
        block = next(item.i for item in node.attribute if item.name == "blocksize")
        _, channels, height, width = shapes[node.input[0]]
        out, value = node.output[0], dequantize.input[0]
        inner = channels // block**2
        view.set_array(f"{out}_squares", np.array([-1, height, width, block, block, inner], np.int64))
        view.set_array(f"{out}_shape", np.array([-1, height * block, width * block, inner], np.int64))
        steps: tuple[tuple[str, dict[str, Any], list[str]], ...] = (
            ("Transpose", {"perm": [0, 2, 3, 1]}, []),
            ("Reshape", {}, [f"{out}_squares"]),
            ("Transpose", {"perm": [0, 1, 3, 2, 4, 5]}, []),
            ("Reshape", {}, [f"{out}_shape"]),
            ("Transpose", {"perm": [0, 3, 1, 2]}, []),
        )
        for step, (kind, options, extra) in enumerate(steps):
            moved = f"{out}_moved_{step}"
            nodes.append(helper.make_node(kind, [value, *extra], [moved], moved, **options))
            value = moved
        nodes.append(helper.make_node("DequantizeLinear", [value, *dequantize.input[1:]], [out], f"{out}_dequantize"))
        count += 1
    view.rebuild(nodes)
    return count


def fuse_silu(model: onnx.ModelProto) -> int:
    """Write x * sigmoid(x) as ONNX Runtime's QuickGelu, one pass instead of two; returns the number of fusions.

    ONNX Runtime fuses them itself in float networks. Between quantizers it first gives each reader its own
    DequantizeLinear, and then no longer sees that both read the same value.
    """
    from onnx import helper

    view = GraphView(model)
    nodes, count = [], 0
    for node in model.graph.node:
        producers = [view.producer.get(name) for name in node.input] if node.op_type == "Mul" else []
        gate = next((maker for maker in producers if maker is not None and maker.op_type == "Sigmoid"), None)
        if gate is None or gate.input[0] not in node.input:
            nodes.append(node)
            continue
        nodes.append(
            helper.make_node("QuickGelu", [gate.input[0]], [node.output[0]], node.name, domain=ORT_DOMAIN, alpha=1.0)
        )
        count += 1
    view.rebuild(nodes)
    if count:
        model.opset_import.append(helper.make_opsetid(ORT_DOMAIN, 1))
    return count
