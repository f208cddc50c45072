"""What a node of a traced graph does, as far as quantization cares."""

from __future__ import annotations

import operator
from enum import Enum

import torch
from torch import fx, nn
from torch.nn import functional

from yolov6core.quant.fake_quant import ActivationQuantizer


class Kind(Enum):
    """Effect of a node on the values that pass through it."""

    CONV = "conv"
    RELU = "relu"
    """Absorbed into the convolution before it by integer kernels."""
    MAX_POOL = "max_pool"
    PASS = "pass"
    """Moves or drops values, never makes new ones: flatten, transpose, chunk, nearest upsampling ..."""
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
PASS_THROUGH = (Kind.MAX_POOL, Kind.PASS, Kind.CAT)
"""Kinds whose output holds values of their inputs only."""


def kind_of(node: fx.Node, root: nn.Module) -> Kind:
    """Classify a node of a graph traced from `root`. What is not known is OTHER, which is always treated with care."""
    if node.op == "output":
        return Kind.OUTPUT
    if node.op == "call_module":
        return _module_kind(root.get_submodule(str(node.target)))
    if node.op == "call_function":
        if node.target is functional.interpolate:
            return Kind.PASS if node.kwargs.get("mode", "nearest") == "nearest" else Kind.OTHER
        kind = _FUNCTIONS.get(node.target, Kind.OTHER)
        # boxed max-pool results and sums with a constant are not what the rules are made for
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
    """Whether a node that carries values gives one tensor, which can be quantized, and not a tuple of them."""
    return node.target not in (torch.chunk, torch.split, "chunk", "split")


def pass_through_inputs(node: fx.Node, kind: Kind) -> list[fx.Node]:
    """Inputs whose values a carrying node passes on: all of a concat, the first of everything else."""
    inputs = node.all_input_nodes
    return inputs if kind is Kind.CAT else inputs[:1]


def is_prediction(node: fx.Node, root: nn.Module) -> bool:
    """Whether values of this node leave the network with no further arithmetic: a prediction convolution."""
    for user in node.users:
        kind = kind_of(user, root)
        if kind is Kind.OUTPUT or (kind in (*PASS_THROUGH, Kind.ACTIVATION_QUANTIZER) and is_prediction(user, root)):
            return True
    return False


def final_value(conv: fx.Node, root: nn.Module) -> fx.Node:
    """The node that holds a convolution's result as integer kernels see it: its ReLU if that is its only reader."""
    users = list(conv.users)
    return users[0] if len(users) == 1 and kind_of(users[0], root) is Kind.RELU else conv
