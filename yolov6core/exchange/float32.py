"""A float16 file of this project in float32, for networks whose types TensorRT chooses itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from yolov6core.exchange.graph_view import GraphView
from yolov6core.exchange.onnx_notes import set_note

if TYPE_CHECKING:
    import onnx


def to_float32(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network with float32 in place of float16; inputs and outputs are float32 already.

    Args:
        model: of dialect 'trt'; changed.
    """
    from onnx import TensorProto, shape_inference

    real = (TensorProto.FLOAT, TensorProto.FLOAT16)
    typed = shape_inference.infer_shapes(model).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*typed.input, *typed.value_info)}
    outputs = {value.name for value in model.graph.output}
    view = GraphView(model)
    for name, tensor in view.constants.items():
        if tensor.data_type == TensorProto.FLOAT16:
            view.set_array(name, view.array(name).astype(np.float32))
    nodes = []
    for node in model.graph.node:
        target = next((attribute for attribute in node.attribute if attribute.name == "to"), None)
        if node.op_type == "Cast" and target is not None and target.i in real:
            if kinds.get(node.input[0]) in real and node.output[0] not in outputs:
                view.replace_uses(node.output[0], node.input[0])
                continue
            target.i = TensorProto.FLOAT
        nodes.append(node)
    del model.graph.value_info[:]  # they name the types of before
    view.rebuild(nodes)
    set_note(model, "precision", "fp32")
    return model
