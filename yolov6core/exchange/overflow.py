"""Convolutions of a file that are wrong on CPUs whose sums of 8-bit products saturate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from yolov6core.base.saturation import overflows
from yolov6core.exchange.graph_view import GraphView, groups_of

if TYPE_CHECKING:
    import onnx

OPENVINO_EXACT = {"LP_TRANSFORMS_MODE": "NO"}
"""Option that keeps OpenVINO from integer kernels: it adds the rounded numbers in float32."""


def overflowing_convolutions(model: onnx.ModelProto) -> list[str]:
    """Names of the convolutions with int8 weights whose sums of pairs can leave 16 bits, see `saturation`.

    Weights behind a DequantizeLinear, folded to int8 or not, and weights of QLinearConv are read. uint8 weights take
    other kernels, which are exact.
    """
    view = GraphView(model)
    found = []
    for node in view.graph.node:
        integers = _integer_weights(view, node)
        if integers is None or integers.dtype != np.int8 or integers.ndim != 4:
            continue
        if overflows(torch.from_numpy(integers.copy()), groups_of(node)):
            found.append(node.name or node.output[0])
    return found


def _integer_weights(view: GraphView, node: onnx.NodeProto) -> np.ndarray | None:
    """Integer weights [O, I / groups, kh, kw] of a convolution node; None where it has none."""
    if node.op_type == "QLinearConv":
        return view.array(node.input[3]) if node.input[3] in view.constants else None
    maker = view.producer.get(node.input[1]) if node.op_type == "Conv" else None
    if maker is None or maker.op_type != "DequantizeLinear":
        return None
    if maker.input[0] in view.constants:
        return view.array(maker.input[0])
    quantizer = view.producer.get(maker.input[0])
    if quantizer is None or quantizer.op_type != "QuantizeLinear" or quantizer.input[0] not in view.constants:
        return None
    zero_point = view.array(quantizer.input[2])
    scale = view.array(quantizer.input[1]).reshape(-1, 1, 1, 1)
    limits = np.iinfo(zero_point.dtype)
    return np.clip(np.rint(view.array(quantizer.input[0]) / scale), limits.min, limits.max).astype(zero_point.dtype)
