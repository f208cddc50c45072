"""Changes at the ends of an exported graph: input of uint8 pixels, output of prediction maps instead of boxes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from yolov6core.exchange.graph_view import GraphView
from yolov6core.exchange.onnx_notes import INPUT
from yolov6core.export.graph_builder import GraphBuilder
from yolov6core.export.onnx_export import RAW_OUTPUTS
from yolov6core.export.onnx_graph import rename_tensor

if TYPE_CHECKING:
    import onnx

MOVE_OPS = ("Transpose", "Concat", "Reshape", "Flatten", "Identity")
"""Operators that only move values, between the prediction layers and the outputs of a network."""


def cut_maps(model: onnx.ModelProto, strides: tuple[int, ...]) -> None:
    """Make the prediction maps outputs of the graph, in place of logits and distances of all anchors.

    Concatenating and transposing the maps takes about five percent of a small network's time and is as easy outside.

    Args:
        model: traced with outputs RAW_OUTPUTS, not yet rewritten; changed in place.
        strides: of the levels, in order.

    Raises:
        ValueError: the outputs are not formed from one map [B, V, H, W] per level.
    """
    from onnx import helper

    view = GraphView(model)
    values = {value.name: value.type.tensor_type for value in model.graph.value_info}
    outputs = []
    for kind in RAW_OUTPUTS:
        maps = _map_names(view, kind)
        if len(maps) != len(strides):
            raise ValueError(f"{kind} are made of {len(maps)} maps, the network has {len(strides)} levels")
        for stride, name in zip(strides, maps, strict=True):
            outputs.append(helper.make_tensor_value_info(f"{kind}_{stride}", 1, _dims(values[name])))
            rename_tensor(model, name, f"{kind}_{stride}")
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    GraphView(model).rebuild(list(model.graph.node))


def _map_names(view: GraphView, name: str) -> list[str]:
    """Names of the tensors whose values form `name`, in order, traced back through operators that only move values."""
    node = view.producer.get(name)
    if node is None or node.op_type not in MOVE_OPS:
        return [name]
    inputs = node.input if node.op_type == "Concat" else node.input[:1]
    return [source for value in inputs for source in _map_names(view, value)]


def _dims(tensor: onnx.TypeProto.Tensor) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]


def take_pixels(model: onnx.ModelProto) -> str:
    """Make uint8 BGR images [B, H, W, 3] in 0..255, as decoders return them, the input of the graph, in place.

    Returns: new name of the network's own input, float32 RGB [B, 3, H, W] in 0..1.
    """
    from onnx import TensorProto, helper

    image, inner = model.graph.input[0], INPUT + "_scaled"
    batch, _, height, width = _dims(image.type.tensor_type)
    rename_tensor(model, INPUT, inner)
    build = GraphBuilder(model, "input")
    # TensorRT takes uint8 inputs only through a Cast.
    real = build("Cast", INPUT, to=TensorProto.FLOAT)
    planes = build("Transpose", real, perm=[0, 3, 1, 2])
    rgb = build("Gather", planes, build.constant(np.array([2, 1, 0])), axis=1)
    build("Div", rgb, build.constant(np.float32(255)), out=inner)
    build.finish(first=True)
    image.CopyFrom(helper.make_tensor_value_info(INPUT, TensorProto.UINT8, [batch, height, width, 3]))
    return inner
