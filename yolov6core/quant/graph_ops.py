"""Effect of the nodes of a traced graph on values, as far as quantization needs to know it."""

from __future__ import annotations

import operator
from enum import Enum

import torch
from torch import fx, nn
from torch.nn import functional

from yolov6core.quant.fake_quant import ActivationQuantizer, QuantConv2d


class Kind(Enum):
    """Effect of a node on the values that it reads."""

    CONV = "conv"
    RELU = "relu"
    """Absorbed into the convolution before it by integer kernels."""
    MAX_POOL = "max_pool"
    PASS = "pass"
    """Moves or drops values, never computes new ones: flatten, transpose, chunk, nearest upsampling ..."""
    CAT = "cat"
    ADD = "add"
    ACTIVATION_QUANTIZER = "activation_quantizer"
    OTHER = "other"
    OUTPUT = "output"


_MODULES: tuple[tuple[tuple[type[nn.Module], ...], Kind], ...] = (
    ((ActivationQuantizer,), Kind.ACTIVATION_QUANTIZER),
    ((nn.Conv2d,), Kind.CONV),
    ((nn.ReLU, nn.ReLU6), Kind.RELU),
    ((nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d), Kind.MAX_POOL),
    (
        (nn.Identity, nn.Dropout, nn.Dropout2d, nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle)
        + (nn.ChannelShuffle, nn.UpsamplingNearest2d),
        Kind.PASS,
    ),
)
_FUNCTIONS: dict[object, Kind] = {
    **dict.fromkeys((torch.relu, functional.relu, functional.relu6), Kind.RELU),
    **dict.fromkeys((torch.max_pool2d, functional.max_pool2d), Kind.MAX_POOL),
    **dict.fromkeys((torch.cat, torch.concat, torch.concatenate, torch.stack), Kind.CAT),
    **dict.fromkeys((operator.add, operator.iadd, torch.add), Kind.ADD),
    **dict.fromkeys(
        (torch.flatten, torch.reshape, torch.permute, torch.transpose, torch.squeeze, torch.unsqueeze, torch.chunk)
        + (torch.split, torch.swapaxes, torch.narrow, operator.getitem, functional.dropout, functional.pixel_shuffle),
        Kind.PASS,
    ),
}
_METHODS: dict[str, Kind] = {
    **dict.fromkeys(("relu", "relu_"), Kind.RELU),
    **dict.fromkeys(("add", "add_"), Kind.ADD),
    **dict.fromkeys(
        ("flatten", "reshape", "view", "permute", "transpose", "squeeze", "unsqueeze", "chunk", "split", "contiguous")
        + ("narrow", "swapaxes", "unflatten", "clone", "detach"),
        Kind.PASS,
    ),
}
_LAYERS = (functional.linear, functional.conv2d, functional.conv1d, functional.batch_norm, functional.layer_norm)
_LAYERS += (torch.matmul, torch.bmm, operator.matmul, torch.conv2d, "matmul", "bmm")
"""Functions with weights of their own, or products of features: no steps of decoding."""
PASS_THROUGH = (Kind.MAX_POOL, Kind.PASS, Kind.CAT)
"""Kinds whose output holds values of the inputs only."""


def kind_of(node: fx.Node, root: nn.Module) -> Kind:
    """Classify a node of a graph traced from `root`. Unknown operators are OTHER; no rule assumes anything of them."""
    if node.op == "output":
        return Kind.OUTPUT
    if node.op == "call_module":
        return _module_kind(root.get_submodule(str(node.target)))
    if node.op == "call_function":
        if node.target is functional.interpolate:
            return Kind.PASS if node.kwargs.get("mode", "nearest") == "nearest" else Kind.OTHER
        kind = _FUNCTIONS.get(node.target, Kind.OTHER)
        # The rules for adds assume two tensors; a sum with a constant has one.
        return Kind.OTHER if kind is Kind.ADD and len(node.all_input_nodes) != 2 else kind
    if node.op == "call_method":
        return _METHODS.get(str(node.target), Kind.OTHER)
    return Kind.OTHER


def _module_kind(module: nn.Module) -> Kind:
    if isinstance(module, nn.Upsample):
        return Kind.PASS if module.mode == "nearest" else Kind.OTHER
    for types, kind in _MODULES:
        if isinstance(module, types):
            return kind
    return Kind.OTHER


def is_tensor(node: fx.Node) -> bool:
    """Whether a pass-through node returns one tensor, which can be quantized, and not a tuple of tensors."""
    return node.target not in (torch.chunk, torch.split, "chunk", "split")


def pass_through_inputs(node: fx.Node, kind: Kind) -> list[fx.Node]:
    """Inputs whose values a pass-through node passes on: all of a concat, the first of all others."""
    inputs = node.all_input_nodes
    return inputs if kind is Kind.CAT else inputs[:1]


def is_prediction(node: fx.Node, root: nn.Module) -> bool:
    """Whether values of this node leave the network without further arithmetic."""
    for user in node.users:
        kind = kind_of(user, root)
        if kind is Kind.OUTPUT or (kind in (*PASS_THROUGH, Kind.ACTIVATION_QUANTIZER) and is_prediction(user, root)):
            return True
    return False


def is_last(node: fx.Node, root: nn.Module) -> bool:
    """Whether a convolution is one of the last, a prediction convolution: its values leave the network, as they are or
    decoded.

    Decoding is arithmetic without other layers: sigmoid, softmax and the expectation over bins (a convolution of fixed
    weights behind the softmax), products with strides, sums with cell centres. A ReLU at the very end is no decoding:
    it belongs to a convolution that gives features.
    """
    seen: set[fx.Node] = set()
    pending = [node]
    while pending:
        value = pending.pop()
        if value in seen:
            continue
        seen.add(value)
        for user in value.users:
            kind = kind_of(user, root)
            if kind is Kind.OUTPUT:
                if kind_of(value, root) is not Kind.RELU:
                    return True
            elif _decodes(user, kind, value, root):
                pending.append(user)
    return False


def _decodes(user: fx.Node, kind: Kind, value: fx.Node, root: nn.Module) -> bool:
    """Whether a reader of a value may be a step of decoding."""
    if kind is Kind.CONV:
        return _is_softmax(value, root)
    if kind is not Kind.OTHER:
        return True
    if user.op == "call_module":
        return not _has_weights(root.get_submodule(str(user.target)))
    return user.target not in _LAYERS


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _is_softmax(node: fx.Node, root: nn.Module) -> bool:
    """Whether a value is a softmax, perhaps moved or reshaped behind it."""
    while kind_of(node, root) in PASS_THROUGH and node.all_input_nodes:
        node = node.all_input_nodes[0]
    if node.op == "call_module":
        return isinstance(root.get_submodule(str(node.target)), nn.Softmax | nn.Softmax2d)
    return node.target in (torch.softmax, functional.softmax, "softmax")


def final_value(conv: fx.Node, root: nn.Module) -> fx.Node:
    """The node that holds the result of an integer kernel: the convolution's ReLU if it is the only reader."""
    users = list(conv.users)
    return users[0] if len(users) == 1 and kind_of(users[0], root) is Kind.RELU else conv


def quant_conv(gm: nn.Module, name: str) -> QuantConv2d:
    """The convolution at a module path of a quantized model."""
    conv = gm.get_submodule(name)
    assert isinstance(conv, QuantConv2d), "insertion replaces every Conv2d of the graph"
    return conv


def activation_quantizers(gm: nn.Module) -> dict[str, ActivationQuantizer]:
    """Scale group -> quantizer of a quantized model, called in the present dialect or not."""
    modules = gm.get_submodule("ranges").named_children()
    return {group: module for group, module in modules if isinstance(module, ActivationQuantizer)}
