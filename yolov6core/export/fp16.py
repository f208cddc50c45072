"""Half precision written into the graph, as strongly typed TensorRT networks (TensorRT 11, RTX) need it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from yolov6core.exchange.graph_view import GraphView, made_before_convolutions
from yolov6core.export.onnx_graph import rename_tensor

if TYPE_CHECKING:
    import onnx

LARGEST = float(np.finfo(np.float16).max)
SMALLEST = float(np.finfo(np.float16).smallest_subnormal)
MIN_OPSET = 19
FLOAT_INPUTS = {"Resize": (1, 2)}
"""Operator -> inputs that are float32 for data of any type."""


def to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Convert all operators up to the last convolutions to float16, with their scales, and return the model.

    Inputs and outputs of the graph stay float32, and so does the decoding of boxes behind the last convolutions:
    float16 has steps of half a pixel for coordinates above 512. `model` is changed.

    Raises:
        ValueError: opset below 19, whose Q/DQ take float32 scales only; a constant beyond 65504.
    """
    import onnx
    from onnx import TensorProto, helper

    opset = next(item.version for item in model.opset_import if item.domain == "")
    if opset < MIN_OPSET:
        raise ValueError(f"float16 beside Q/DQ needs opset {MIN_OPSET} or 20, the graph has {opset}: set export.opset")
    made = made_before_convolutions(model)
    maps = [output.name for output in model.graph.output if output.name in made]
    for name in maps:  # outputs without decoding
        rename_tensor(model, name, name + "_half")
    made = made_before_convolutions(model)
    view = GraphView(model)
    casts: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []

    def cast(name: str, suffix: str, kind: int) -> str:
        """Name of a tensor in the other precision; its Cast is made once."""
        if name not in casts:
            casts[name] = name + suffix
            nodes.append(helper.make_node("Cast", [name], [casts[name]], casts[name], to=kind))
        return casts[name]

    inputs = {value.name for value in model.graph.input if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    for node in model.graph.node:
        inside = node.output[0] in made
        for index, name in enumerate(node.input):
            if index in FLOAT_INPUTS.get(node.op_type, ()):
                continue
            if inside and name in view.constants and view.array(name).dtype == np.float32:
                node.input[index] = _half_constant(view, name)
            elif inside and name in inputs:
                node.input[index] = cast(name, "_half", TensorProto.FLOAT16)
            elif not inside and name in made and view.producer[name].op_type != "QuantizeLinear":
                node.input[index] = cast(name, "_float", TensorProto.FLOAT)
        nodes.append(node)
    nodes += [helper.make_node("Cast", [name + "_half"], [name], name, to=TensorProto.FLOAT) for name in maps]
    view.rebuild(nodes)
    del model.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)


def _half_constant(view: GraphView, name: str) -> str:
    half = name + "_half"
    if half not in view.constants:
        value = view.array(name)
        if np.abs(value).max(initial=0) > LARGEST:
            raise ValueError(
                f"{name} holds {np.abs(value).max():.3g}, float16 ends at {LARGEST}: set export.fp16 false"
            )
        scales = any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in view.readers[name])
        # The scale of a dead channel must not become zero: TensorRT rejects it.
        view.set_array(half, (np.maximum(value, SMALLEST) if scales else value).astype(np.float16))
    return half
