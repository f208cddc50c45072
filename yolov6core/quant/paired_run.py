"""The float and the quantized network run in step, node by node, for methods that correct one layer at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from yolov6core.base.progress import tracked
from yolov6core.quant.graph_ops import Kind, kind_of, quant_conv
from yolov6core.quant.insert import QuantizedModel

Visit = Callable[[str, Tensor, Tensor, Tensor], Tensor]
"""(convolution, quantized input, quantized result, float result) -> result for the rest of the quantized network.

All tensors are float32 [B, C, H, W].
"""


@torch.no_grad()
def visit_convolutions(gm: QuantizedModel, images: Tensor, visit: Visit) -> None:
    """Run both networks once and hand every quantized convolution to `visit`, in order of execution.

    The result of `visit` is the input of later layers of the quantized network; the float network stays as it was. A
    convolution that is called several times is visited at the first call.

    Args:
        gm: calibrated model; the quantizers of its present dialect are on.
        images: [B, 3, H, W] float32 in 0..1. Memory is that of two forward passes.
    """
    kinds = {node: kind_of(node, gm) for node in gm.graph.nodes}
    last_reader = {value: node for node in gm.graph.nodes for value in node.all_input_nodes}
    float_run, quantized_run = fx.Interpreter(gm), fx.Interpreter(gm)
    for run in (float_run, quantized_run):
        run.args_iter = iter((images,))
    seen: set[str] = set()
    training = gm.training
    gm.eval()
    try:
        for node in tracked(gm.graph.nodes, "layer by layer", unit="operations"):
            float_run.env[node] = _float_value(float_run, gm, node, kinds[node])
            value = quantized_run.run_node(node)
            if kinds[node] is Kind.CONV and quant_conv(gm, str(node.target)).active and node.target not in seen:
                seen.add(str(node.target))
                source = quantized_run.env[node.all_input_nodes[0]]
                value = visit(str(node.target), source, value, float_run.env[node])
            quantized_run.env[node] = value
            for finished in {v for v in node.all_input_nodes if last_reader[v] is node}:
                del float_run.env[finished], quantized_run.env[finished]
    finally:
        gm.train(training)


def _float_value(run: fx.Interpreter, gm: QuantizedModel, node: fx.Node, kind: Kind) -> Any:
    if kind is Kind.ACTIVATION_QUANTIZER:
        return run.env[node.all_input_nodes[0]]
    if kind is not Kind.CONV:
        return run.run_node(node)
    conv = quant_conv(gm, str(node.target))
    before, conv.enabled = conv.enabled, False
    try:
        return run.run_node(node)
    finally:
        conv.enabled = before
