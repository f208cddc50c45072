"""A float ONNX network and the integer grids of its tensors, apart from each other: what other toolkits take in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from yolov6core.exchange.graph_view import SAME_RANGE_OPS, GraphView
from yolov6core.export.qdq import merge_pairs, pairs, strip_pairs
from yolov6core.export.shuffles import blocks_first

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class TensorGrid:
    """Integers `low` .. `high` of an activation: real value = (integer - zero point) * scale."""

    scale: float
    zero_point: int
    low: int
    high: int

    @property
    def symmetric(self) -> bool:
        """Whether it is signed, with zero in its middle."""
        return self.low < 0 and self.zero_point == 0

    @property
    def limits(self) -> tuple[float, float]:
        """Smallest and largest real value."""
        return (self.low - self.zero_point) * self.scale, (self.high - self.zero_point) * self.scale


@dataclass(frozen=True)
class PlainRanges:
    """A network without quantizers and its ranges.

    Attributes:
        model: float ONNX. The others speak of its tensors by name.
        activations: grids of inputs of quantized convolutions, and of tensors that hold the same values.
        weights: scales float32 [O] of the int8 weights of quantized convolutions, symmetric.
        cached: scale of every tensor that a calibration cache names; empty if a grid is not symmetric.
    """

    model: onnx.ModelProto
    activations: Mapping[str, TensorGrid]
    weights: Mapping[str, NDArray[np.float32]]
    cached: Mapping[str, float]


def plain_ranges(traced: onnx.ModelProto) -> PlainRanges:
    """Take the Q/DQ pairs out of a traced network.

    Args:
        traced: result of `to_onnx` for a quantized model; it stays unchanged.

    Raises:
        ValueError: a tensor has two grids, or nothing is quantized.
    """
    model = type(traced).FromString(traced.SerializeToString())
    blocks_first(model)
    merge_pairs(model)
    paired = type(traced).FromString(model.SerializeToString())
    view = GraphView(model)
    activations: dict[str, TensorGrid] = {}
    weights: dict[str, NDArray[np.float32]] = {}
    for pair in pairs(view):
        scale, zero_point = (view.array(name) for name in pair.quantize.input[1:3])
        if pair.source in view.constants:
            weights[pair.source] = scale
        else:
            integers = np.iinfo(zero_point.dtype)
            grid = TensorGrid(scale.item(), zero_point.item(), int(integers.min), int(integers.max))
            if activations.setdefault(pair.source, grid) != grid:
                raise ValueError(f"tensor {pair.source} is rounded to two grids, {activations[pair.source]} and {grid}")
        view.replace_uses(pair.result, pair.source)
    if not weights:
        raise ValueError("no convolution is quantized, so there are no ranges")
    for node in reversed(model.graph.node):
        if node.op_type in SAME_RANGE_OPS and node.output[0] in activations:
            for name in node.input:
                activations.setdefault(name, activations[node.output[0]])
    view.rebuild(list(model.graph.node))
    alive = {name for node in model.graph.node for name in (*node.input, *node.output)}
    activations = {name: grid for name, grid in activations.items() if name in alive}
    cached = strip_pairs(paired) if all(grid.symmetric for grid in activations.values()) else {}
    return PlainRanges(model, activations, weights, cached)
