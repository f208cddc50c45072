"""Pixel shuffles and SiLU in the forms that integer kernels like. Each pass changes the model in place, no number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from yolov6core.engines.graph_view import GraphView

if TYPE_CHECKING:
    import onnx

ORT_DOMAIN = "com.microsoft"
_PER_VALUE = ("QuantizeLinear", "DequantizeLinear", "FakeQuantize", "Relu", "Clip")
"""Operators between a convolution and its shuffle that do the same to every channel."""


def blocks_first(model: onnx.ModelProto) -> int:
    """Let every pixel shuffle behind a convolution read whole pixels side by side (DCR instead of CRD); returns how
    many.

    With channels last, as integer kernels have them, such a shuffle moves rows of channels and not single bytes. The
    convolution's output channels change places for it.
    """
    view = GraphView(model)
    count = 0
    for node in model.graph.node:
        mode = next((item for item in node.attribute if item.name == "mode"), None)
        conv = _maker(view, node.input[0]) if node.op_type == "DepthToSpace" else None
        if conv is None or mode is None or mode.s != b"CRD":
            continue
        names, readers = _parameters(view, conv)
        if any(node.output[0] not in readers for name in names for node in view.readers[name]):
            continue  # another convolution has the same weights
        channels = next(view.array(name).shape[0] for name in names if view.array(name).ndim == 4)
        block = next(item.i for item in node.attribute if item.name == "blocksize")
        order = np.arange(channels).reshape(-1, block * block).T.reshape(-1)
        for name in names:
            if view.array(name).shape[0] == channels:
                view.set_array(name, view.array(name)[order])
        mode.s = b"DCR"
        count += 1
    return count


def _maker(view: GraphView, name: str) -> onnx.NodeProto | None:
    """The convolution whose result reaches a tensor through operators on single values only, nobody else reading it."""
    node = view.producer.get(name)
    while node is not None and len(view.readers[name]) == 1:
        if node.op_type == "Conv":
            return node
        name = node.input[0]
        node = view.producer.get(name) if node.op_type in _PER_VALUE else None
    return None


def _parameters(view: GraphView, conv: onnx.NodeProto) -> tuple[set[str], set[str]]:
    """Constants by channel that a convolution's weights and bias are made from, and results of the nodes on the way."""
    names, readers, pending = set(), {conv.output[0]}, list(conv.input[1:])
    while pending:
        name = pending.pop()
        if name not in view.constants:
            readers.add(name)
            pending += view.producer[name].input
        elif view.array(name).ndim:
            names.add(name)
    return names, readers


def shuffle_integers(model: onnx.ModelProto) -> int:
    """Write pixel shuffles of integers as moves of rows of channels, for ONNX Runtime; returns how many.

    Its DepthToSpace takes float only. Between the transposes written here, which cancel out against those around its
    integer convolutions, everything stays channels-last. Needs `blocks_first`.
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
        for step, (kind, options, extra) in enumerate(
            (
                ("Transpose", {"perm": [0, 2, 3, 1]}, []),
                ("Reshape", {}, [f"{out}_squares"]),
                ("Transpose", {"perm": [0, 1, 3, 2, 4, 5]}, []),
                ("Reshape", {}, [f"{out}_shape"]),
                ("Transpose", {"perm": [0, 3, 1, 2]}, []),
            )
        ):
            moved = f"{out}_moved_{step}"
            nodes.append(helper.make_node(kind, [value, *extra], [moved], moved, **options))
            value = moved
        nodes.append(helper.make_node("DequantizeLinear", [value, *dequantize.input[1:]], [out], f"{out}_dequantize"))
        count += 1
    view.rebuild(nodes)
    return count


def fuse_silu(model: onnx.ModelProto) -> int:
    """Write x * sigmoid(x) as ONNX Runtime's QuickGelu, one pass instead of two; returns how many.

    It does so by itself for float networks. Between quantizers it first gives each reader a DequantizeLinear of its
    own, and then no longer sees that both read the same.
    """
    from onnx import helper

    view = GraphView(model)
    nodes, count = [], 0
    for node in model.graph.node:
        makers = [view.producer.get(name) for name in node.input] if node.op_type == "Mul" else []
        gate = next((maker for maker in makers if maker is not None and maker.op_type == "Sigmoid"), None)
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
