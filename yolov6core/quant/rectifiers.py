"""The form of a quantized network that is trained: ReLUs are part of the quantizers that alone read them.

A quantizer cuts its values at both ends anyway, so that the ReLU costs nothing there. In the forward and the backward
pass this saves one read and one write of every such feature map; outputs and gradients are the same.
"""

from __future__ import annotations

import copy
from collections.abc import Collection

from torch import fx

from yolov6core.quant.graph_ops import Kind, kind_of
from yolov6core.quant.insert import QuantizedModel


def with_merged_rectifiers(model: QuantizedModel, *, keep: Collection[str] = ()) -> QuantizedModel:
    """The same network, sharing all parameters and quantizers, for `forward` and training only.

    State dicts fit both; dialect and float layers are changed in the original.

    Args:
        keep: module paths of ReLUs that stay because somebody reads their output.
    """
    graph = copy.deepcopy(model.graph)
    for node in list(graph.nodes):
        if kind_of(node, model) is not Kind.RELU or str(node.target) in keep:
            continue
        readers, (value,) = list(node.users), node.all_input_nodes
        alone = len(value.users) == 1  # other readers of a value would see what a ReLU in place has made of it
        if alone and readers and all(kind_of(reader, model) is Kind.ACTIVATION_QUANTIZER for reader in readers):
            _merge_(node, readers)
    graph.lint()
    merged = QuantizedModel(model, graph, class_name="QuantizedModel")
    merged._modules = dict(model._modules)  # all of them, in their order: also what the graph does not call
    merged.training = model.training
    return merged


def _merge_(relu: fx.Node, readers: list[fx.Node]) -> None:
    (value,) = relu.all_input_nodes
    for reader in readers:
        reader.replace_input_with(relu, value)
        reader.kwargs = {**reader.kwargs, "rectify": True}
    relu.graph.erase_node(relu)
