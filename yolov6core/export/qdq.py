"""Passes over the QuantizeLinear/DequantizeLinear pairs of an exported graph. Each changes the model in place."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from yolov6core.exchange.graph_view import OPENVINO_DOMAIN, SAME_RANGE_OPS, GraphView

if TYPE_CHECKING:
    import onnx

logger = logging.getLogger(__name__)
INT32_MAX = 2**31 - 1


@dataclass(frozen=True)
class Pair:
    """QuantizeLinear followed by DequantizeLinear."""

    quantize: onnx.NodeProto
    dequantize: onnx.NodeProto

    @property
    def source(self) -> str:
        """Name of the tensor that is quantized."""
        return self.quantize.input[0]

    @property
    def result(self) -> str:
        """Name of the dequantized tensor."""
        return self.dequantize.output[0]


def pairs(view: GraphView) -> list[Pair]:
    """All Q/DQ pairs in graph order, of weights and of activations."""
    found = []
    for node in view.graph.node:
        producer = view.producer.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if producer is not None and producer.op_type == "QuantizeLinear":
            found.append(Pair(producer, node))
    return found


def activation_pairs(view: GraphView) -> list[Pair]:
    """Q/DQ pairs whose source is no constant."""
    return [pair for pair in pairs(view) if pair.source not in view.constants]


def channel_axis(node: onnx.NodeProto) -> int:
    """The axis attribute of a Q or DQ node (ONNX's default is 1)."""
    return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)


def fold_weights(model: onnx.ModelProto) -> int:
    """Replace QuantizeLinear on a constant by the int8 constant, a quarter of the bytes; returns the number of pairs.

    Rounds as torch's fake-quantize does: `round_half_even(x * (1 / scale))` differs from the quotient at ties.
    """
    view = GraphView(model)
    count = 0
    for pair in pairs(view):
        if pair.source not in view.constants:
            continue
        zero_point = view.array(pair.quantize.input[2])
        limits = np.iinfo(zero_point.dtype)
        weight = view.array(pair.source)
        inverse = np.float32(1) / _along_axis(
            view.array(pair.quantize.input[1]), channel_axis(pair.quantize), weight.ndim
        )
        rounded = np.rint(weight * inverse) + _along_axis(zero_point, channel_axis(pair.quantize), weight.ndim)
        name = pair.source + "_quantized"
        view.set_array(name, np.clip(rounded, limits.min, limits.max).astype(zero_point.dtype))
        pair.dequantize.input[0] = name
        count += 1
    view.rebuild(list(model.graph.node))
    return count


def unfold_weights(model: onnx.ModelProto) -> int:
    """Replace int8 weights by float32 ones whose QuantizeLinear gives the same integers; returns their number.

    TensorRT 8 refuses constants of type int8 ("invalid weights type of Int8").
    """
    from onnx import helper

    view = GraphView(model)
    nodes, count = [], 0
    for node in model.graph.node:
        name = node.input[0]
        if node.op_type == "DequantizeLinear" and name in view.constants and view.array(name).dtype == np.int8:
            integers, axis = view.array(name), channel_axis(node)
            scale = _along_axis(view.array(node.input[1]), axis, integers.ndim)
            real, quantized = f"{name}_real", f"{name}_again"
            view.set_array(real, (integers * scale).astype(np.float32))
            nodes.append(
                helper.make_node("QuantizeLinear", [real, *node.input[1:]], [quantized], f"{quantized}_node", axis=axis)
            )
            node.input[0] = quantized
            count += 1
        nodes.append(node)
    view.rebuild(nodes)
    return count


def _along_axis(values: np.ndarray, axis: int, ndim: int) -> np.ndarray:
    """Reshape a vector to broadcast along one of `ndim` axes; a scalar stays as it is."""
    return values if values.ndim == 0 else values.reshape([-1 if index == axis else 1 for index in range(ndim)])


def merge_pairs(model: onnx.ModelProto) -> int:
    """Drop pairs that repeat another pair on the same tensor or on its result; returns the number of dropped pairs."""
    view = GraphView(model)
    first: dict[tuple[str, bytes, bytes], str] = {}
    on_grid: dict[str, tuple[bytes, bytes]] = {}
    dropped = 0
    for pair in activation_pairs(view):
        grid = (view.array(pair.quantize.input[1]).tobytes(), _zero_point_key(view, pair.quantize))
        twin = pair.source if on_grid.get(pair.source) == grid else first.get((pair.source, *grid))
        if twin is not None:
            view.replace_uses(pair.result, twin)
            dropped += 1
        else:
            first[(pair.source, *grid)] = pair.result
            on_grid[pair.result] = grid
    view.rebuild(list(model.graph.node))
    return dropped


def _zero_point_key(view: GraphView, node: onnx.NodeProto) -> bytes:
    zero_point = view.array(node.input[2])
    return zero_point.dtype.str.encode() + zero_point.tobytes()


def quantize_biases(model: onnx.ModelProto) -> int:
    """Store the bias of each quantized convolution as int32 with scale s_x * s_w, the form of QLinearConv.

    Needs folded weights. If a bias does not fit int32 (a channel of almost-zero weights), the channel's weight scale is
    raised until it does. Returns the number of biases.
    """
    from onnx import helper

    view = GraphView(model)
    nodes = []
    for node in model.graph.node:
        x, weight = (view.producer.get(name) for name in node.input[:2]) if node.op_type == "Conv" else (None, None)
        if (
            x is not None
            and weight is not None
            and x.op_type == weight.op_type == "DequantizeLinear"
            and len(node.input) == 3
            and node.input[2] in view.constants
        ):
            name = node.input[2]
            scale = _bias_scale(view, x, weight, view.array(name))
            integer = np.rint(view.array(name).astype(np.float64) / scale).astype(np.int32)
            view.set_array(name + "_int32", integer)
            view.set_array(name + "_scale", scale.astype(np.float32))
            nodes.append(
                helper.make_node(
                    "DequantizeLinear",
                    [name + "_int32", name + "_scale"],
                    [name + "_real"],
                    name + "_dequantize",
                    axis=0,
                )
            )
            node.input[2] = name + "_real"
        nodes.append(node)
    count = len(nodes) - len(model.graph.node)
    view.rebuild(nodes)
    return count


def _bias_scale(view: GraphView, x: onnx.NodeProto, weight: onnx.NodeProto, bias: np.ndarray) -> np.ndarray:
    """s_x * s_w [O] in float64, after raising weight scales that are too small for the bias.

    Kernels add products to the bias in int32, so the limit leaves room for the largest sum of products.
    """
    from onnx import helper

    x_scale = view.array(x.input[1]).astype(np.float64)
    w_scale = view.array(weight.input[1]).astype(np.float64) * np.ones(len(bias))
    integers = view.array(weight.input[0])
    products = 255 * 128 * (integers.size // len(integers))
    least = np.abs(bias.astype(np.float64)) / (x_scale * max(INT32_MAX - products, INT32_MAX // 2))
    raised = np.flatnonzero(least > w_scale)
    if raised.size:
        logger.warning("%s: weight scale raised in %d channel(s) to fit the bias", weight.output[0], raised.size)
        factor = np.ones(len(bias))
        factor[raised] = w_scale[raised] / least[raised]
        view.set_array(
            weight.input[0], np.rint(integers * _along_axis(factor, 0, integers.ndim)).astype(integers.dtype)
        )
        w_scale[raised] = least[raised]
        if view.array(weight.input[1]).size == 1:  # one scale for all channels becomes one for each
            del weight.attribute[:], weight.input[2:]  # the zero point is 0 without one
            weight.attribute.append(helper.make_attribute("axis", 0))
        view.set_array(weight.input[1], w_scale.astype(np.float32))
    return (x_scale * w_scale).astype(np.float32).astype(np.float64)


def clip_integers(model: onnx.ModelProto) -> int:
    """Move a ReLU behind a convolution to the integers if the grid has a zero point; returns the number of ReLUs.

    ONNX Runtime drops a ReLU before a Q whose zero point is the smallest integer and forms QLinearConv. A range with
    negative values has another zero point, and the convolution would stay float. Zero lies on every grid, so
    Q(max(x, 0)) = max(Q(x), zero point): the numbers do not change.
    """
    from onnx import helper

    view = GraphView(model)
    nodes, count = [], 0
    for node in model.graph.node:
        nodes.append(node)
        if node.op_type != "QuantizeLinear" or node.input[0] not in view.producer:
            continue
        relu = view.producer[node.input[0]]
        zero_point = view.array(node.input[2])
        limits = np.iinfo(zero_point.dtype)
        behind_conv = relu.op_type == "Relu" and relu.input[0] in view.producer
        behind_conv = behind_conv and view.producer[relu.input[0]].op_type == "Conv"
        if not behind_conv or zero_point.item() == limits.min or len(view.readers[relu.output[0]]) > 1:
            continue
        node.input[0] = relu.input[0]
        raw, low, high = (node.output[0] + end for end in ("_raw", "_low", "_high"))
        view.set_array(low, zero_point.reshape(()))
        view.set_array(high, np.array(limits.max, zero_point.dtype))
        nodes.append(helper.make_node("Clip", [raw, low, high], [node.output[0]], node.name + "_clip"))
        node.output[0] = raw
        count += 1
    view.rebuild(nodes)
    return count


def to_fake_quantize(model: onnx.ModelProto) -> int:
    """Replace every activation pair by one OpenVINO FakeQuantize with real limits; returns the number of pairs.

    OpenVINO's CPU plugin computes wrong numbers for int8 Q/DQ that reach a convolution through a Concat (observed from
    2024.6 to 2026.4). FakeQuantize with 256 levels from -128 s to 127 s is correct and as fast. Weights stay int8
    constants with DequantizeLinear, the form that OpenVINO itself stores.
    """
    from onnx import helper

    view = GraphView(model)
    by_result = {pair.result: pair for pair in activation_pairs(view)}
    nodes = []
    for node in model.graph.node:
        pair = by_result.get(node.output[0])
        if pair is None:
            if node.op_type == "DequantizeLinear" and len(node.input) == 3 and not view.array(node.input[2]).any():
                del node.input[2]  # saves a Subtract per weight
            nodes.append(node)
            continue
        scale, zero_point = (view.array(name).reshape(()) for name in pair.quantize.input[1:3])
        limits = np.iinfo(zero_point.dtype)
        low, high = pair.result + "_low", pair.result + "_high"
        view.set_array(low, scale * np.float32(limits.min - int(zero_point)))
        view.set_array(high, scale * np.float32(limits.max - int(zero_point)))
        fake = helper.make_node(
            "FakeQuantize",
            [pair.source, low, high, low, high],
            [pair.result],
            pair.dequantize.name.replace("DequantizeLinear", "FakeQuantize"),
            domain=OPENVINO_DOMAIN,
            levels=256,
        )
        nodes.append(fake)
    view.rebuild(nodes)
    if by_result:
        model.opset_import.append(helper.make_opsetid(OPENVINO_DOMAIN, 1))
    return len(by_result)


SCALE_OF_RESULT = (*SAME_RANGE_OPS, "Relu", "Split")
"""Operators whose input may have the scale of the result: they move values, or drop what the scale clips."""
GATES = ("Sigmoid", "HardSigmoid")
"""Operators whose results lie in 0..1."""


def strip_pairs(model: onnx.ModelProto) -> dict[str, float]:
    """Remove all pairs, also those of weights; returns tensor name -> scale for a calibration cache.

    A layer runs in INT8 only if what it reads and what it gives have scales. Other tensors get one, too:
    those before SCALE_OF_RESULT, and the gates behind a tensor with a scale.

    Raises:
        ValueError: a pair with a non-zero zero point, which a cache cannot hold.
    """
    view = GraphView(model)
    scales: dict[str, float] = {}
    for pair in pairs(view):
        if view.array(pair.quantize.input[2]).any():
            raise ValueError(f"{pair.source} is quantized with a zero point; a calibration cache needs dialect 'trt'")
        if pair.source not in view.constants:
            scales[pair.source] = view.array(pair.quantize.input[1]).item()
        view.replace_uses(pair.result, pair.source)
    view.rebuild(list(model.graph.node))
    for node in reversed(model.graph.node):
        known = [scales[name] for name in node.output if name in scales]
        if known and node.op_type in SCALE_OF_RESULT:
            for name in node.input if node.op_type == "Concat" else node.input[:1]:
                scales.setdefault(name, max(known))
    for node in model.graph.node:
        if node.op_type in GATES and node.input[0] in scales:
            scales.setdefault(node.output[0], 1 / 127)
    alive = {name for node in model.graph.node for name in (*node.input, *node.output)}
    return {name: scale for name, scale in scales.items() if name in alive}
