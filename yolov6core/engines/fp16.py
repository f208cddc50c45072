"""Half precision written into the graph itself: the only way strongly typed TensorRT networks (11, RTX) take it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from yolov6core.engines.onnx_graph import GraphView

if TYPE_CHECKING:
    import onnx

LARGEST = float(np.finfo(np.float16).max)
SMALLEST = float(np.finfo(np.float16).smallest_subnormal)
MIN_OPSET = 19


def to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Run everything up to and including the convolutions in float16, scales included; the rest stays float32.

    Inputs and outputs of the graph stay float32. What comes after the last convolutions is the decoding of boxes, and
    float16 cannot hold pixel coordinates above 512 closer than half a pixel.

    Raises:
        ValueError: opset below 19, whose Q/DQ take float32 scales only; a constant beyond 65504.
    """
    import onnx
    from onnx import TensorProto, helper

    opset = next(item.version for item in model.opset_import if item.domain == "")
    if opset < MIN_OPSET:
        raise ValueError(f"float16 beside Q/DQ needs opset {MIN_OPSET} or 20, the graph has {opset}: set export.opset")
    half = _nodes_before_convolutions(model)
    view = GraphView(model)
    made = {name for node in half for name in node.output}
    names = {id(node) for node in half}
    cast_to_half: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []

    def cast(name: str, suffix: str, kind: int) -> str:
        nodes.append(helper.make_node("Cast", [name], [name + suffix], name + suffix, to=kind))
        return name + suffix

    for value in model.graph.input:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            cast_to_half[value.name] = cast(value.name, "_half", TensorProto.FLOAT16)
    widened: dict[str, str] = {}
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if id(node) in names:
                if name in view.constants and view.array(name).dtype == np.float32:
                    node.input[index] = _half_constant(view, name)
                node.input[index] = cast_to_half.get(node.input[index], node.input[index])
            elif name in made and _is_float(view, name):
                if name not in widened:
                    widened[name] = cast(name, "_float", TensorProto.FLOAT)
                node.input[index] = widened[name]
        nodes.append(node)
    for output in model.graph.output:
        if output.name in made:
            raise ValueError(f"output {output.name} comes straight from a convolution; decode it in the graph first")
    view.rebuild(nodes)
    del model.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)


def _nodes_before_convolutions(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Convolutions and every node that one of them depends on."""
    needed: set[str] = set()
    found = []
    for node in reversed(model.graph.node):
        if node.op_type in ("Conv", "ConvTranspose") or needed.intersection(node.output):
            needed.update(node.input)
            found.append(node)
    return found


def _is_float(view: GraphView, name: str) -> bool:
    """Whether a tensor made in the half-precision part is real-valued there."""
    return view.producer[name].op_type not in ("QuantizeLinear", "Shape")


def _half_constant(view: GraphView, name: str) -> str:
    half = name + "_half"
    if half not in view.constants:
        value = view.array(name)
        if np.abs(value).max(initial=0) > LARGEST:
            raise ValueError(
                f"{name} holds {np.abs(value).max():.3g}, float16 ends at {LARGEST}: set export.fp16 false"
            )
        scales = any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in view.readers[name])
        # A scale of a dead channel must not become zero: TensorRT refuses it.
        view.set_array(half, (np.maximum(value, SMALLEST) if scales else value).astype(np.float16))
    return half
