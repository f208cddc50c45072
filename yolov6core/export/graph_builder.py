"""Adding nodes to an exported graph, one call per node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx


class GraphBuilder:
    """Makes nodes and constants with one name prefix; `finish` adds the nodes to the graph."""

    def __init__(self, model: onnx.ModelProto, prefix: str) -> None:
        self.graph = model.graph
        self.opset = next(item.version for item in model.opset_import if item.domain == "")
        self.prefix = prefix
        self.nodes: list[onnx.NodeProto] = []
        self._constants = 0

    def __call__(self, kind: str, *inputs: str, out: str = "", outputs: int = 1, **attributes: Any) -> Any:
        """Add a node of operator `kind`.

        Args:
            out: name of the output; a new name by default.
            outputs: number of outputs.

        Returns: name of the output, or a list of names if there are several.
        """
        from onnx import helper

        name = f"/{self.prefix}/{kind}_{len(self.nodes)}"
        made = [out or f"{name}_output_{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), made, name, **attributes))
        return made[0] if outputs == 1 else made

    def constant(self, value: Any) -> str:
        """Add a constant; returns its name."""
        from onnx import numpy_helper

        name = f"/{self.prefix}/constant_{self._constants}"
        self._constants += 1
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def finish(self, *, first: bool = False) -> None:
        """Add the nodes behind those of the graph, or before them."""
        nodes = [*self.nodes, *self.graph.node] if first else [*self.graph.node, *self.nodes]
        copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
        del self.graph.node[:]
        self.graph.node.extend(copies)
