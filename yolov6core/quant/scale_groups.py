"""Scale groups from the traced graph: tensors that must share one scale, found by union-find.

Values meet in a concat, are added, or pass a max-pool or a reshaping operator. With one scale for all of them, integer
kernels only move bytes; with several, they must convert. Works for any network of convolutions that torch.fx traces.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx, nn

from yolov6core.quant.graph_ops import PASS_THROUGH, Kind, final_value, is_prediction, kind_of, pass_through_inputs


@dataclass(frozen=True)
class ScaleGroups:
    """Groups of graph values by name. A group has the name of its first tensor in order of execution.

    Attributes:
        group_of: node name -> group name, for every node whose values may be quantized.
        sources: group name -> names of the nodes that compute its values (the others pass them through). A group must
            be calibrated on the union of these tensors.
    """

    group_of: dict[str, str]
    sources: dict[str, tuple[str, ...]]


def find_groups(graph: fx.Graph, root: nn.Module) -> ScaleGroups:
    """Group the values of a graph traced from `root` that has no quantizer yet.

    Groups exist for the input of every Conv2d and for the result of every Conv2d but the prediction convolutions. Their
    names do not depend on which convolutions stay float later.
    """
    parent: dict[fx.Node, fx.Node] = {}

    def find(node: fx.Node) -> fx.Node:
        while parent.setdefault(node, node) is not node:
            parent[node] = node = parent[parent[node]]
        return node

    kinds = {node: kind_of(node, root) for node in graph.nodes}
    for node, kind in kinds.items():
        if kind in PASS_THROUGH:
            for value in pass_through_inputs(node, kind):
                parent[find(value)] = find(node)
        elif kind is Kind.ADD:
            first, *others = node.all_input_nodes
            for value in others:
                parent[find(value)] = find(first)

    wanted = {find(value) for value in _quantizable_values(graph, root, kinds)}
    members: dict[fx.Node, list[fx.Node]] = {}
    for node in graph.nodes:
        if find(node) in wanted:
            members.setdefault(find(node), []).append(node)
    group_of: dict[str, str] = {}
    sources: dict[str, tuple[str, ...]] = {}
    for nodes in members.values():
        computed = [node for node in nodes if kinds[node] not in PASS_THROUGH]
        name = _module_name(computed[0].name)
        sources[name] = tuple(node.name for node in computed)
        group_of |= dict.fromkeys((node.name for node in nodes), name)
    return ScaleGroups(group_of, sources)


def _quantizable_values(graph: fx.Graph, root: nn.Module, kinds: dict[fx.Node, Kind]) -> list[fx.Node]:
    values = []
    for node in graph.nodes:
        if kinds[node] is Kind.CONV:
            values.append(node.all_input_nodes[0])
            if not is_prediction(node, root):
                values.append(final_value(node, root))
    return values


def _module_name(node_name: str) -> str:
    """A node name as a key of nn.ModuleDict, which refuses the names of its own attributes."""
    return f"{node_name}_" if hasattr(nn.ModuleDict, node_name) else node_name
