"""Networks made ready for quantizers: batch norm folded, identities gone."""

from __future__ import annotations

import copy

from torch import fx, nn
from torch.fx.experimental.optimization import fuse


def folded(model: nn.Module) -> nn.Module:
    """A copy of the network with batch norm folded into the convolutions before it, by torch.fx.

    Raises:
        ValueError: batch norm is in training form, or stands where it cannot be folded.
    """
    root = copy.deepcopy(model)
    if not (names := _batch_norms(root)):
        return root
    if any(root.get_submodule(name).training for name in names):
        raise ValueError(f"batch norm {names[0]!r} is in training form; call eval() (deploy_) before quantizing")
    fused = fuse(root.eval(), no_trace=False)
    used = {str(node.target) for node in fx.symbolic_trace(root).graph.nodes if node.op == "call_module"}
    left = _batch_norms(fused) or [name for name in names if name not in used]
    if left:
        raise ValueError(
            f"batch norm {left[0]!r} is left in the network: it follows no Conv2d of its own; replace it, or fold it"
        )
    return fused.train(model.training)


def _batch_norms(root: nn.Module) -> list[str]:
    return [name for name, module in root.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def drop_identities_(traced: fx.GraphModule) -> None:
    """Take nodes of nn.Identity out of the graph: they hide the reader that would quantize a convolution's result."""
    for node in list(traced.graph.nodes):
        if node.op == "call_module" and type(traced.get_submodule(str(node.target))) is nn.Identity:
            node.replace_all_uses_with(node.all_input_nodes[0])
            traced.graph.erase_node(node)
