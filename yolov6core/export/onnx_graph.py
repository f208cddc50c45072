"""Passes over exported graphs that do not depend on quantization. Each changes the model in place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from yolov6core.exchange.graph_view import GraphView

if TYPE_CHECKING:
    import onnx


def hoist_constants(model: onnx.ModelProto) -> None:
    """Turn Constant nodes into initializers, so that passes find all constants in one place."""
    from onnx import numpy_helper

    view = GraphView(model)
    rest = []
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            view.set_array(node.output[0], numpy_helper.to_array(node.attribute[0].t))
        else:
            rest.append(node)
    view.rebuild(rest)


def fix_reshapes(model: onnx.ModelProto, *, dynamic_batch: bool) -> None:
    """Give every Reshape of a graph traced with a fixed batch a constant shape; a leading 0 copies the batch.

    The exporter computes some shapes at run time (Shape, Slice, Concat), which costs time in each call. `model` must
    hold inferred shapes.
    """
    values = [*model.graph.value_info, *model.graph.output]
    shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values}
    view = GraphView(model)
    for node in model.graph.node:
        if node.op_type == "Reshape":
            shape = shapes[node.output[0]]
            view.set_array(node.output[0] + "_shape", np.array([0, *shape[1:]] if dynamic_batch else shape, np.int64))
            node.input[1] = node.output[0] + "_shape"
    view.rebuild(list(model.graph.node))


def open_batch(model: onnx.ModelProto, name: str = "batch") -> None:
    """Name the first dimension of all inputs and outputs; the shapes in between must be inferred again."""
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = name
    del model.graph.value_info[:]


def fold_constants(model: onnx.ModelProto) -> None:
    """Replace nodes that depend on constants only (weight scales from stored ranges) by their results, except Q/DQ."""
    from onnx.reference import ReferenceEvaluator

    view = GraphView(model)
    rest = []
    for node in model.graph.node:
        names = [name for name in node.input if name]  # an optional input that is left out has an empty name
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") or not all(name in view.constants for name in names):
            rest.append(node)
            continue
        values = ReferenceEvaluator(node).run(None, {name: view.array(name) for name in names})
        for name, value in zip(node.output, values, strict=True):
            view.set_array(name, np.asarray(value))
    view.rebuild(rest)


def fold_shapes(model: onnx.ModelProto) -> bool:
    """Replace Shape nodes of known result by constants; returns whether there were any.

    For graphs traced with a fixed batch. The exporter writes the halves of a `chunk` as Slice with computed limits.
    """
    known = {value.name: _fixed_shape(value) for value in (*model.graph.input, *model.graph.value_info)}
    view = GraphView(model)
    rest = []
    for node in model.graph.node:
        shape = known.get(node.input[0]) if node.op_type == "Shape" and not node.attribute else None
        if shape is None:
            rest.append(node)
        else:
            view.set_array(node.output[0], np.array(shape, np.int64))
    found = len(rest) < len(model.graph.node)
    view.rebuild(rest)
    return found


def maps_known(model: onnx.ModelProto) -> bool:
    """Whether the shapes of all results of convolutions and reshapes are known."""
    known = {value.name: _fixed_shape(value) for value in (*model.graph.value_info, *model.graph.output)}
    makers = (node for node in model.graph.node if node.op_type in ("Conv", "Reshape"))
    return all(known.get(node.output[0]) is not None for node in makers)


def _fixed_shape(value: onnx.ValueInfoProto) -> list[int] | None:
    """The shape of a tensor if all dimensions are known, else None."""
    if not value.type.tensor_type.HasField("shape"):
        return None
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_value for dim in dims] if all(dim.HasField("dim_value") for dim in dims) else None


def rename_tensor(model: onnx.ModelProto, old: str, new: str) -> None:
    """Rename a tensor in all nodes; inputs and outputs of the graph keep their names."""
    for node in model.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == old:
                    names[index] = new
    notes = [value for value in model.graph.value_info if value.name != old]
    del model.graph.value_info[:]
    model.graph.value_info.extend(notes)


def simplified(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model after onnxsim, with the metadata of `model`.

    Raises:
        ValueError: onnxsim is not installed, fails, or its result computes other numbers.
    """
    try:
        import onnxsim  # pyright: ignore[reportMissingImports]  # optional package
    except ImportError as error:
        raise ValueError(
            "simplify needs onnxsim, which is not installed: pip install onnxsim, or set simplify to false"
        ) from error
    try:
        result, equal = onnxsim.simplify(model)
    except Exception as error:  # of its own, without a common base class
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"onnxsim fails on the network ({reason}): set simplify to false") from None
    if not equal:
        raise ValueError("onnxsim changes what the network computes: set simplify to false")
    del result.metadata_props[:]
    result.metadata_props.extend(model.metadata_props)
    return result
