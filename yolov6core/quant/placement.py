"""Where the graph calls a range: quantizer placements, placed anew whenever dialect or float layers change.

The rules, for a value and each of its readers:
- a quantized convolution reads the quantized value, a float convolution the unquantized one, in every dialect;
- max-pool reads the quantized value (it commutes with quantization and then runs on integers), and so does everything
  else that only carries the value, unless a float convolution or the network's output would read it through that;
- with edges "through_concats" (OpenVINO), that holds for concats and whatever else only moves values too, and what is carried
  is not quantized again behind them;
- an add reads the quantized form of an operand that a quantized convolution reads as well (the skip branch of a
  residual block), so that conv + add fuse;
- with edges "all" (ONNX Runtime), concats read quantized values too, and so does any other reader of a quantized
  convolution's result: the convolution runs on integers only if all that leaves it is quantized.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx, nn

from yolov6core.quant.graph_ops import (
    PASS_THROUGH,
    Kind,
    final_value,
    is_prediction,
    is_tensor,
    kind_of,
    pass_through_inputs,
)
from yolov6core.quant.scale_groups import ScaleGroups
from yolov6core.quant.spec import Dialect


@dataclass(frozen=True)
class QuantizerPlacement:
    """One quantizer in the graph: which value it rounds, by which group's range, for which readers (node names)."""

    value: str
    group: str
    readers: tuple[str, ...]
    non_negative: bool = False
    """Whether the value is a ReLU's and its quantizer may leave out the negative part of the group's range."""


def remove_quantizers_(graph: fx.Graph, root: nn.Module) -> None:
    """Take every quantizer out of the graph."""
    for node in list(graph.nodes):
        if kind_of(node, root) is Kind.ACTIVATION_QUANTIZER:
            node.replace_all_uses_with(node.all_input_nodes[0])
            graph.erase_node(node)


def plan_placements(
    graph: fx.Graph, root: nn.Module, *, groups: ScaleGroups, dialect: Dialect, float_layers: frozenset[str]
) -> list[QuantizerPlacement]:
    """Sites of a graph that has none, in order of execution.

    Args:
        float_layers: module paths of the convolutions that are not quantized.
    """
    planner = _Planner(graph, root, dialect, float_layers)
    placements, order = [], {node: position for position, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        if node.name in groups.group_of and is_tensor(node):
            # fx lists readers by age of the edge, which earlier rewiring changes
            readers = sorted(planner.readers(node), key=order.__getitem__)
            if readers:
                names = tuple(reader.name for reader in readers)
                placements.append(
                    QuantizerPlacement(node.name, groups.group_of[node.name], names, planner.is_non_negative(node))
                )
    return placements


def insert_placements_(graph: fx.Graph, placements: list[QuantizerPlacement]) -> None:
    """Insert a call of `ranges.<group>` after each placement's value and hand its result to the placement's readers."""
    nodes = {node.name: node for node in graph.nodes}
    for placement in placements:
        value = nodes[placement.value]
        with graph.inserting_after(value):
            # Not given where it is the default, so that graphs show what is special.
            options = {"non_negative": True} if placement.non_negative else {}
            quantized = graph.call_module(f"ranges.{placement.group}", (value,), options)
        for reader in placement.readers:
            nodes[reader].replace_input_with(value, quantized)


class _Planner:
    """The rules above, over one graph."""

    def __init__(self, graph: fx.Graph, root: nn.Module, dialect: Dialect, float_layers: frozenset[str]) -> None:
        self.kinds = {node: kind_of(node, root) for node in graph.nodes}
        self.everywhere = dialect.edges == "all"
        self.carried = dialect.edges == "through_concats"
        self.quantized = {
            node for node, kind in self.kinds.items() if kind is Kind.CONV and str(node.target) not in float_layers
        }
        self.results = {final_value(node, root) for node in self.quantized if not is_prediction(node, root)}
        self.inner = {node for node in self.quantized if final_value(node, root) is not node}
        self._reach: dict[fx.Node, frozenset[str]] = {}

    def readers(self, value: fx.Node) -> list[fx.Node]:
        """Readers of `value` that take its quantized form."""
        if value in self.inner:  # the ReLU behind it is part of the convolution
            return []
        if self.carried and self._arrives_quantized(value):
            return []
        taking = [reader for reader in value.users if self._takes(value, reader)]
        if not self.everywhere and any(self.kinds[reader] is Kind.MAX_POOL for reader in taking):
            # what goes beside the pools into their concat should come from the same quantizer
            taking = [reader for reader in value.users if reader in taking or self._only_quantized(reader)]
        return taking

    def is_non_negative(self, value: fx.Node) -> bool:
        """Whether a value should be quantized without negative part: ReLU results where all edges are quantized.

        A concat with signed values gives its group a zero point above 0, behind which ONNX Runtime cannot absorb the
        ReLU of the other branches. It converts between scales in a concat, so those may differ.
        """
        return self.everywhere and self.kinds[value] is Kind.RELU

    def _takes(self, value: fx.Node, reader: fx.Node) -> bool:
        kind = self.kinds[reader]
        if kind is Kind.CONV:
            return reader in self.quantized
        if kind is Kind.OUTPUT:
            return False
        if kind in PASS_THROUGH:
            return (kind is Kind.MAX_POOL or self.carried or self.everywhere) and self._only_quantized(reader)
        if kind is Kind.ADD and any(user in self.quantized for user in value.users):
            return True
        return self.everywhere and value in self.results

    def _only_quantized(self, carrier: fx.Node) -> bool:
        """Whether a carrying node leads to quantized convolutions, and to nothing that wants the unquantized value."""
        if self.kinds[carrier] not in PASS_THROUGH:
            return False
        reach = self._reached(carrier)
        return "quantized" in reach and "float" not in reach and (self.everywhere or "other" not in reach)

    def _arrives_quantized(self, value: fx.Node) -> bool:
        """Whether everything that is carried into this value is quantized before."""
        kind = self.kinds[value]
        return self._only_quantized(value) and all(
            is_tensor(source) or self._arrives_quantized(source) for source in pass_through_inputs(value, kind)
        )

    def _reached(self, carrier: fx.Node) -> frozenset[str]:
        """Who reads a carried value in the end: quantized or float convolutions (or the output), other operators."""
        if carrier not in self._reach:
            found: set[str] = set()
            for user in carrier.users:
                kind = self.kinds[user]
                if kind in PASS_THROUGH:
                    found |= self._reached(user)
                elif kind is Kind.CONV:
                    found.add("quantized" if user in self.quantized else "float")
                else:
                    found.add("float" if kind is Kind.OUTPUT else "other")
            self._reach[carrier] = frozenset(found)
        return self._reach[carrier]
