"""Equalization: factors moved between channels of the float network, so that one scale serves all channels of a tensor.

There are two forms. Their factors are powers of two, so that the function of the network stays the same to the bit.
- Cross-layer equalization: between convolutions with only ReLU, max-pool or identity in between, channel c is divided
  by s_c = sqrt(r1_c / r2_c) in the first one and multiplied by it in its readers (Nagel et al., "Data-Free Quantization
  Through Weight Equalization and Bias Correction", arXiv:1906.04721, equation 11). r2 are the ranges of the weights
  that read c. r1 are peaks of the activation, not ranges of the weights before it: those have a scale per channel.
- Depthwise equalization: if no factor can pass the activation before a depthwise convolution (hard-swish, SiLU), the
  graph gets a multiplication that brings all channels to about the same peak. The depthwise weights take the inverse;
  they have a scale per channel, so they lose no precision. The effect is that of activation scales per channel.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

SCALES = "input_scales"
"""Module path of the multiplications: buffer `input_scales.<path of the convolution>.factor`."""
LIMIT = 2.0**16
"""Largest factor, and its inverse the smallest, so that almost dead channels are not enlarged without limit."""

_HOMOGENEOUS = (nn.ReLU, nn.Identity, nn.Dropout, nn.MaxPool2d, nn.UpsamplingNearest2d)
_HOMOGENEOUS_CALLS = (torch.relu, functional.relu, functional.max_pool2d, torch.max_pool2d)


class InputScale(nn.Module):
    """Multiplies [B, C, H, W] by a fixed factor per channel, buffer `factor` [1, C, 1, 1]."""

    factor: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("factor", torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


@dataclass(frozen=True)
class CrossLayerGroup:
    """A convolution and the convolutions that read its result: module paths."""

    first: str
    readers: tuple[str, ...]


def is_depthwise(conv: nn.Conv2d) -> bool:
    """Whether a convolution has one filter per channel."""
    return conv.groups == conv.in_channels == conv.out_channels > 1


def depthwise_names(network: nn.Module) -> list[str]:
    """Module paths of the depthwise convolutions."""
    return [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d) and is_depthwise(module)]


@torch.no_grad()
def input_peaks(network: nn.Module, batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """Module path of every Conv2d -> largest magnitude [I] of its input channels, in evaluation mode.

    Raises:
        ValueError: no batch.
    """
    peaks: dict[str, Tensor] = {}

    def observer(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def observe(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            peak = inputs[0].abs().amax(dim=(0, 2, 3))
            peaks[name] = torch.maximum(peaks[name], peak) if name in peaks else peak

        return observe

    convolutions = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    handles = [module.register_forward_pre_hook(observer(name)) for name, module in convolutions]
    training = network.training
    network.eval()
    try:
        for images in batches:
            network(images)
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()
    if not peaks:
        raise ValueError("equalization needs at least one image; check the calibration list")
    return peaks


def equalize(
    network: nn.Module, peaks: Mapping[str, Tensor], *, cross_layer: bool = True, depthwise: bool = True
) -> nn.Module:
    """An equalized copy of a float network with the same module paths; the network itself if nothing is to be done.

    Args:
        network: batch norm folded (a deployed Detector), traceable by torch.fx.
        peaks: result of `input_peaks`.
        cross_layer, depthwise: forms to apply.
    """
    groups = find_cross_layer_groups(network) if cross_layer else []
    peaks = dict(peaks)
    if groups:
        network = copy.deepcopy(network)
        for group in groups:
            _balance_(network, group, peaks)
    return _scale_inputs(network, peaks) if depthwise else network


def find_cross_layer_groups(network: nn.Module) -> list[CrossLayerGroup]:
    """Convolutions that only convolutions read, directly or through ReLU or max-pool, in order of execution."""
    graph = fx.Tracer().trace(network)
    calls = [node for node in graph.nodes if _convolution(node, network) is not None]
    targets = [str(node.target) for node in calls]
    groups = []
    for node in calls:
        readers = _readers(node, network)
        names = tuple(dict.fromkeys(str(reader.target) for reader in readers or ()))
        # A module that is called twice would need the same factors in both places.
        if names and all(targets.count(name) == 1 for name in (str(node.target), *names)):
            groups.append(CrossLayerGroup(str(node.target), names))
    return groups


def with_input_scales(network: nn.Module, names: Iterable[str]) -> nn.Module:
    """A copy of the network with a multiplication before each named convolution, by 1 until the factors are set.

    State dicts get the keys `input_scales.<name>.factor`, from which `scaled_inputs` finds the names.
    """
    chosen = set(names)
    if not chosen:
        return network
    root = copy.deepcopy(network)
    gm = fx.GraphModule(root, fx.Tracer().trace(root))
    gm.train(network.training)
    for node in list(gm.graph.nodes):
        if node.op == "call_module" and node.target in chosen:
            value, conv = node.all_input_nodes[0], _conv_at(gm, str(node.target))
            gm.add_submodule(f"{SCALES}.{node.target}", InputScale(conv.in_channels).to(conv.weight.device))
            with gm.graph.inserting_before(node):
                scaled = gm.graph.call_module(f"{SCALES}.{node.target}", (value,))
            node.replace_input_with(value, scaled)
    gm.recompile()
    return gm


def scaled_inputs(state_keys: Iterable[str]) -> list[str]:
    """Names of the convolutions behind an `InputScale`, from the keys of a state dict."""
    return [key[len(SCALES) + 1 : -len(".factor")] for key in state_keys if key.startswith(f"{SCALES}.")]


@torch.no_grad()
def _scale_inputs(network: nn.Module, peaks: Mapping[str, Tensor]) -> nn.Module:
    factors = {}
    for name in depthwise_names(network):
        if name in peaks and float((peak := peaks[name]).max()) > 0:
            factor = _power_of_two(peak.max() / peak.clamp_min(peak.max() / LIMIT))
            if bool((factor > 2).any()):  # a gain below one bit does not pay for the operator
                factors[name] = factor
    scaled = with_input_scales(network, factors)
    for name, factor in factors.items():
        module = scaled.get_submodule(f"{SCALES}.{name}")
        assert isinstance(module, InputScale), "inserted above"
        module.factor.copy_(factor.view(1, -1, 1, 1))
        _conv_at(scaled, name).weight.div_(factor.view(-1, 1, 1, 1))
    return scaled


@torch.no_grad()
def _balance_(network: nn.Module, group: CrossLayerGroup, peaks: dict[str, Tensor]) -> None:
    """Move factors from the first convolution into its readers and update `peaks`."""
    first = _conv_at(network, group.first)
    readers = [_conv_at(network, name) for name in group.readers]
    peak = peaks[group.readers[0]]
    if all(is_depthwise(reader) for reader in readers):
        divisor = peak / peak.max()  # the whole spread: depthwise weights have a scale per channel
    else:
        divisor = (peak / torch.stack([_column_range(reader) for reader in readers]).amax(dim=0)).sqrt()
        divisor = divisor / divisor.median()
    usable = torch.isfinite(divisor) & (divisor > 0)
    divisor = torch.where(usable, _power_of_two(divisor.clamp(1 / LIMIT, LIMIT)), torch.ones_like(divisor))
    first.weight.div_(divisor.view(-1, 1, 1, 1))
    if first.bias is not None:
        first.bias.div_(divisor)
    for name, reader in zip(group.readers, readers, strict=True):
        shape = (-1, 1, 1, 1) if is_depthwise(reader) else (1, -1, 1, 1)
        reader.weight.mul_(divisor.view(shape))
        peaks[name] = peaks[name] / divisor


def _column_range(conv: nn.Conv2d) -> Tensor:
    """Largest magnitude [I] of the weights that read each input channel."""
    dim = (1, 2, 3) if is_depthwise(conv) else (0, 2, 3)
    return conv.weight.abs().amax(dim=dim)


def _power_of_two(values: Tensor) -> Tensor:
    return torch.exp2(torch.log2(values).round())


def _conv_at(network: nn.Module, name: str) -> nn.Conv2d:
    conv = network.get_submodule(name)
    assert isinstance(conv, nn.Conv2d), "names are those of Conv2d modules"
    return conv


def _convolution(node: fx.Node, network: nn.Module) -> nn.Conv2d | None:
    module = network.get_submodule(str(node.target)) if node.op == "call_module" else None
    return module if isinstance(module, nn.Conv2d) else None


def _readers(node: fx.Node, network: nn.Module) -> list[fx.Node] | None:
    """Convolutions that read a value; None if another reader could not undo a factor."""
    found = []
    for user in node.users:
        conv = _convolution(user, network)
        if conv is not None and (conv.groups == 1 or is_depthwise(conv)):
            found.append(user)
            continue
        passes = user.target in _HOMOGENEOUS_CALLS if user.op == "call_function" else False
        if user.op == "call_module":
            passes = isinstance(network.get_submodule(str(user.target)), _HOMOGENEOUS)
        behind = _readers(user, network) if passes else None
        if not behind:
            return None
        found += behind
    return found
