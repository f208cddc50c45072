"""Where the graph calls activation quantizers, planned anew whenever the dialect or the float layers change.

The rules, for a value and each of its readers:
- A quantized convolution reads the quantized value, a float convolution the unquantized one, in every dialect.
- Max-pool reads the quantized value: it commutes with quantization and then runs on integers. So does every other
  pass-through node beside it, unless a float convolution or the network's output would read the value through it.
- With edges "through_concats" (OpenVINO), the same holds for concats and all other pass-through nodes. Their results
  are not quantized again.
- An add reads the quantized form of an operand that a quantized convolution reads as well (the skip branch of a
  residual block), so that conv + add fuse.
- With edges "all" (ONNX Runtime), concats read quantized values too, and so does any other reader of a quantized
  convolution's result: the convolution runs on integers only if all of its readers take the quantized result.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx, nn
from torch.fx.node import Argument

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
    """One quantizer in the graph.

    Attributes:
        value: name of the node whose result is rounded.
        group: scale group whose range is used.
        readers: names of the nodes that read the rounded value.
        non_negative: whether the value is the result of a ReLU, so that the negative part of the range is left out.
    """

    value: str
    group: str
    readers: tuple[str, ...]
    non_negative: bool = False


def remove_quantizers_(graph: fx.Graph, root: nn.Module) -> None:
    """Take every activation quantizer out of the graph, in place."""
    for node in list(graph.nodes):
        if kind_of(node, root) is Kind.ACTIVATION_QUANTIZER:
            node.replace_all_uses_with(node.all_input_nodes[0])
            graph.erase_node(node)


def plan_placements(
    graph: fx.Graph, root: nn.Module, *, groups: ScaleGroups, dialect: Dialect, float_layers: frozenset[str]
) -> list[QuantizerPlacement]:
    """Plan the quantizers of a graph that has none, in order of execution.

    Args:
        float_layers: module paths of the convolutions that are not quantized.
    """
    planner = _Planner(graph, root, dialect, float_layers)
    placements, order = [], {node: position for position, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        if node.name in groups.group_of and is_tensor(node):
            # fx lists readers by age of the edge, which earlier rewiring changes.
            readers = sorted(planner.quantized_readers(node), key=order.__getitem__)
            if readers:
                names = tuple(reader.name for reader in readers)
                group = groups.group_of[node.name]
                placements.append(QuantizerPlacement(node.name, group, names, planner.is_non_negative(node)))
    return placements


def insert_placements_(graph: fx.Graph, placements: list[QuantizerPlacement]) -> None:
    """Insert a call of `ranges.<group>` behind each planned value and hand its result to the planned readers."""
    nodes = {node.name: node for node in graph.nodes}
    for placement in placements:
        value = nodes[placement.value]
        with graph.inserting_after(value):
            # The default is left out, so that printed graphs show the exceptions.
            options: dict[str, Argument] = {"non_negative": True} if placement.non_negative else {}
            quantized = graph.call_module(f"ranges.{placement.group}", (value,), options)
        for reader in placement.readers:
            nodes[reader].replace_input_with(value, quantized)


class _Planner:
    """Applies the rules above to one graph."""

    def __init__(self, graph: fx.Graph, root: nn.Module, dialect: Dialect, float_layers: frozenset[str]) -> None:
        self.kinds = {node: kind_of(node, root) for node in graph.nodes}
        self.all_edges = dialect.edges == "all"
        self.through_concats = dialect.edges == "through_concats"
        self.quantized = {
            node for node, kind in self.kinds.items() if kind is Kind.CONV and str(node.target) not in float_layers
        }
        self.results = {final_value(node, root) for node in self.quantized if not is_prediction(node, root)}
        self.before_relu = {node for node in self.quantized if final_value(node, root) is not node}
        self._final_readers: dict[fx.Node, frozenset[str]] = {}

    def quantized_readers(self, value: fx.Node) -> list[fx.Node]:
        """Readers of `value` that take its quantized form."""
        if value in self.before_relu:  # the ReLU behind it is part of the convolution
            return []
        if self.through_concats and self._arrives_quantized(value):
            return []
        readers = [reader for reader in value.users if self._reads_quantized(value, reader)]
        if not self.all_edges and any(self.kinds[reader] is Kind.MAX_POOL for reader in readers):
            # A concat behind the pools should read the value from the same quantizer.
            readers = [reader for reader in value.users if reader in readers or self._only_quantized(reader)]
        return readers

    def is_non_negative(self, value: fx.Node) -> bool:
        """Whether a value should be quantized without negative part: ReLU results where all edges are quantized.

        A concat with signed values gives its group a zero point above 0. ONNX Runtime cannot absorb the ReLU of the
        other branches into it. It converts between scales in a concat, so those may differ.
        """
        return self.all_edges and self.kinds[value] is Kind.RELU

    def _reads_quantized(self, value: fx.Node, reader: fx.Node) -> bool:
        kind = self.kinds[reader]
        if kind is Kind.CONV:
            return reader in self.quantized
        if kind is Kind.OUTPUT:
            return False
        if kind in PASS_THROUGH:
            wanted = kind is Kind.MAX_POOL or self.through_concats or self.all_edges
            return wanted and self._only_quantized(reader)
        if kind is Kind.ADD and any(user in self.quantized for user in value.users):
            return True
        return self.all_edges and value in self.results

    def _only_quantized(self, node: fx.Node) -> bool:
        """Whether a pass-through node leads to quantized convolutions, and to no reader of the unquantized value."""
        if self.kinds[node] not in PASS_THROUGH:
            return False
        readers = self._readers_behind(node)
        return "quantized" in readers and "float" not in readers and (self.all_edges or "other" not in readers)

    def _arrives_quantized(self, value: fx.Node) -> bool:
        """Whether all values that pass into this one are quantized before."""
        kind = self.kinds[value]
        return self._only_quantized(value) and all(
            is_tensor(source) or self._arrives_quantized(source) for source in pass_through_inputs(value, kind)
        )

    def _readers_behind(self, node: fx.Node) -> frozenset[str]:
        """Kinds of the final readers of a passed value: quantized, float (with the output), other (operators)."""
        if node not in self._final_readers:
            found: set[str] = set()
            for user in node.users:
                kind = self.kinds[user]
                if kind in PASS_THROUGH:
                    found |= self._readers_behind(user)
                elif kind is Kind.CONV:
                    found.add("quantized" if user in self.quantized else "float")
                else:
                    found.add("float" if kind is Kind.OUTPUT else "other")
            self._final_readers[node] = frozenset(found)
        return self._final_readers[node]
