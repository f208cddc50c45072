"""Calibrated ranges of other toolkits: `_amax` tensors by layer in the state dicts of quantized networks.

NVIDIA's pytorch-quantization names them `<layer>._input_quantizer._amax` and `<layer>._weight_quantizer._amax`;
nvidia-modelopt omits the first underscore of the quantizers. Both are symmetric: the input has one number, the weights
have one per output channel, shaped [O, 1, 1, 1]. Upsampling is a transposed convolution there, with one number per
channel, shaped [1, O, 1, 1]; our `PixelUpsampling` has one for each channel and place in the square.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, fx, nn

from yolov6core.quant.fake_quant import ActivationQuantizer, QuantConv2d
from yolov6core.quant.graph_ops import Kind, kind_of
from yolov6core.quant.insert import QuantizedModel, convolution_names, describe, set_float_layers_, state_of

Style = Literal["pytorch-quantization", "modelopt"]
_PREFIX: dict[str, str] = {"pytorch-quantization": "_", "modelopt": ""}
_KEY = re.compile(r"(?P<layer>.+)\._?(?P<what>input|weight)_quantizer\._amax")


def to_amax(
    gm: QuantizedModel, *, style: Style = "pytorch-quantization", rename: Callable[[str], str] | None = None
) -> dict[str, Tensor]:
    """Ranges of all quantized convolutions as `_amax` tensors on the CPU: inputs [], weights [O, 1, 1, 1].

    Args:
        gm: calibrated model. For an asymmetric range, the larger magnitude is written.
        style: toolkit whose names are used.
        rename: our module path -> name of the layer in the other network; default the same.

    Raises:
        ValueError: unknown style, or a range that is not calibrated.
    """
    if style not in _PREFIX:
        raise ValueError(f"state dict style {style!r} is unknown; choose one of {', '.join(_PREFIX)}")
    state, prefix = {}, _PREFIX[style]
    for row in describe(gm):
        if not row.quantized:
            continue
        if row.input_scale is None:
            raise ValueError(f"{row.name}: the range of its input is not calibrated; calibrate or load ranges first")
        places, name = _places(gm, row.name), _name_there(gm, row.name)
        name = rename(name) if rename else name
        weights = _convolution(gm, row.name).weight_range().detach().cpu()
        weights = weights.reshape(-1, places).amax(dim=1)
        state[f"{name}.{prefix}input_quantizer._amax"] = torch.tensor(max(-row.amin, row.amax))
        shape = (-1, 1, 1, 1) if places == 1 else (1, -1, 1, 1)
        state[f"{name}.{prefix}weight_quantizer._amax"] = weights.reshape(shape)
    return state


def from_amax_(gm: QuantizedModel, state: Mapping[str, Tensor], *, rename: Callable[[str], str] | None = None) -> None:
    """Take the ranges from a state dict of another toolkit, in place; other entries of the dict are ignored.

    Convolutions without ranges there become float layers. A scale group gets the largest range of its readers; the
    range starts at 0 if ReLU makes all values. Weight ranges are frozen; float layers get the range of their weights.
    Groups that were not quantized there keep their range; only the dialect with edges "all" uses them.

    Args:
        gm: the same network, calibrated or not.
        state: plain state dict in either naming; `module.` of data-parallel training before a name is dropped.
        rename: name of a layer there -> our module path; default the same.

    Raises:
        ValueError: no `_amax` of our convolutions, only one of the two of a layer, a wrong shape, or a number that is
            negative or not finite. The model is then unchanged.
    """
    inputs, weights = _by_layer(gm, state, rename)
    ranges = _group_ranges(gm, inputs)
    set_float_layers_(gm, [name for name in convolution_names(gm) if name not in inputs])
    for group, (amin, amax) in ranges.items():
        own = gm.get_submodule(f"ranges.{group}")
        assert isinstance(own, ActivationQuantizer), "groups have no other modules"
        own.set_(amin, amax)
    for name in convolution_names(gm):
        conv = _convolution(gm, name)
        conv.freeze_ranges_()
        if name in weights:
            conv.get_buffer("weight_amax").copy_(weights[name])


def taken_in_words(gm: QuantizedModel) -> str:
    """After `from_amax_`: how many convolutions have ranges, and which stay float because the file has none."""
    names, state = convolution_names(gm), state_of(gm)
    floats = [name for name in names if name in state.float_layers]
    shown = ": " + ", ".join(floats[:8]) + (", ..." if len(floats) > 8 else "") if floats else ""
    return (
        f"ranges of {len(names) - len(floats)} of {len(names)} convolutions taken, for {state.cpu} sums; "
        f"{len(floats)} convolutions stay float because the file has no ranges of them{shown}"
    )


def _by_layer(
    gm: QuantizedModel, state: Mapping[str, Tensor], rename: Callable[[str], str] | None
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Input amax and weight amax [O] of each of our convolutions that has them."""
    known = {_name_there(gm, name): name for name in convolution_names(gm)}
    inputs: dict[str, float] = {}
    weights: dict[str, Tensor] = {}
    for key, value in state.items():
        match = _KEY.fullmatch(key.removeprefix("module."))
        if match is None:
            continue
        name = known.get(rename(match["layer"]) if rename else match["layer"])
        if name is None:  # max-pools and linear layers have quantizers there as well
            continue
        if not bool(torch.isfinite(value).all()) or bool((value < 0).any()):
            raise ValueError(f"{key} must hold finite magnitudes, not {value.flatten()[:4].tolist()}; calibrate there")
        if match["what"] == "input":
            if value.numel() != 1:
                raise ValueError(f"{key} has shape {list(value.shape)}; inputs have one range for all channels")
            inputs[name] = float(value)
        else:
            places = _places(gm, name)
            channels = _convolution(gm, name).out_channels // places
            if value.numel() not in (1, channels):
                raise ValueError(f"{key} has shape {list(value.shape)}; the layer has {channels} output channels")
            weights[name] = value.detach().flatten().float().expand(channels).repeat_interleave(places)
    if not inputs and not weights:
        raise ValueError("the state dict has no _amax of a convolution of this network; check its names, give `rename`")
    if single := sorted(inputs.keys() ^ weights.keys()):
        raise ValueError(f"{', '.join(single)}: has only one of input and weight _amax; both are needed")
    return inputs, weights


def _convolution(gm: QuantizedModel, name: str) -> QuantConv2d:
    conv = gm.get_submodule(name)
    assert isinstance(conv, QuantConv2d), "convolution_names lists no other module"
    return conv


def _places(gm: QuantizedModel, name: str) -> int:
    """Output pixels per input pixel of a convolution with its own shuffle behind it; 1 for others."""
    shuffle = getattr(gm.get_submodule(name.rpartition(".")[0]), "shuffle", None)
    return shuffle.upscale_factor**2 if isinstance(shuffle, nn.PixelShuffle) else 1


def _name_there(gm: QuantizedModel, name: str) -> str:
    """Name of the layer in a network whose upsampling is a transposed convolution."""
    return name if _places(gm, name) == 1 else name.removesuffix(".conv")


def _group_ranges(gm: QuantizedModel, inputs: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    groups, nodes = state_of(gm).groups, {node.name: node for node in gm.graph.nodes}
    peaks: dict[str, float] = {}
    for row in describe(gm):
        if row.name in inputs:
            peaks[row.input_group] = max(peaks.get(row.input_group, 0.0), inputs[row.name])

    def positive(group: str) -> bool:
        return all(_is_relu(nodes[source], gm) for source in groups.sources[group])

    return {group: (0.0 if positive(group) else -peak, peak) for group, peak in peaks.items()}


def _is_relu(node: fx.Node, gm: QuantizedModel) -> bool:
    return kind_of(node, gm) is Kind.RELU
