"""The float and the quantized network side by side, node by node, for methods that repair one layer after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from yolov6core.quant.graph_ops import Kind, kind_of
from yolov6core.quant.insert import QuantizedModel

Visit = Callable[[str, Tensor, Tensor, Tensor], Tensor]
"""(convolution, quantized input, quantized result, float result) -> the result that the quantized network goes on with.
"""


@torch.no_grad()
def visit_convolutions(gm: QuantizedModel, images: Tensor, visit: Visit) -> None:
    """Run both networks once and hand every quantized convolution to `visit`, in order of execution.

    A layer changed by `visit` counts for all that follows, in the quantized network only: the float results are those
    of the network as it was. A convolution that is called several times is visited at the first call.

    Args:
        gm: calibrated model; the quantizers of its present dialect are on.
        images: [B, 3, H, W] float32 in 0..1. All values that are still needed are kept for both networks, so the
            memory is that of one forward pass twice.
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
        for node in gm.graph.nodes:
            _float_step(float_run, node, kinds[node])
            value = quantized_run.run_node(node)
            if kinds[node] is Kind.CONV and gm.get_submodule(str(node.target)).active and node.target not in seen:
                seen.add(str(node.target))
                source = quantized_run.env[node.all_input_nodes[0]]
                value = visit(str(node.target), source, value, float_run.env[node])
            quantized_run.env[node] = value
            for finished in {v for v in node.all_input_nodes if last_reader[v] is node}:
                del float_run.env[finished], quantized_run.env[finished]
    finally:
        gm.train(training)


def _float_step(run: fx.Interpreter, node: fx.Node, kind: Kind) -> None:
    value: Any
    if kind is Kind.ACTIVATION_QUANTIZER:
        value = run.env[node.all_input_nodes[0]]
    elif kind is Kind.CONV:
        conv = run.module.get_submodule(str(node.target))
        before, conv.enabled = conv.enabled, False
        try:
            value = run.run_node(node)
        finally:
            conv.enabled = before
    else:
        value = run.run_node(node)
    run.env[node] = value
