"""Weights in the form with which ONNX Runtime takes a CPU's AMX tiles: the same numbers from faster kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from yolov6core.exchange.graph_view import GraphView, groups_of

if TYPE_CHECKING:
    import onnx

CHANNELS = 128
"""Output channels from which the tiles win: their way copies each pixel's neighbourhood first, whatever the channels.
A 3x3 convolution of YOLOv6-N takes 1.7 times as long with 64 channels, 0.9 times with 128 and 0.65 times with 256."""
WEIGHTS = 128 * 1024
"""Weights of a convolution from which the tiles win."""


def suit_tiles(model: onnx.ModelProto) -> int:
    """Shift the int8 weights of large convolutions by -1, and their zero point from 0 to -1; returns their number.

    With zero point 0, ONNX Runtime (1.31) takes kernels made for convolutions, which use VNNI. With another one it
    takes those of its matrix products, which use AMX. What the weights stand for is the same.
    """
    view = GraphView(model)
    count = 0
    for node in model.graph.node:
        dequantize = view.producer.get(node.input[1]) if node.op_type == "Conv" else None
        if dequantize is None or dequantize.op_type != "DequantizeLinear" or dequantize.input[0] not in view.constants:
            continue
        name, scale, *zero_point = dequantize.input
        weight = view.array(name)
        large = weight.shape[0] >= CHANNELS and weight.size >= WEIGHTS
        shared = len(view.readers[name]) > 1 or len(view.readers[dequantize.output[0]]) > 1
        # Grouped convolutions have no such kernels. -128 cannot be shifted.
        plain = weight.dtype == np.int8 and weight.min() > -128 and groups_of(node) == 1
        if not large or shared or not plain or (zero_point and view.array(zero_point[0]).any()):
            continue
        view.set_array(f"{name}_zero_point", np.full(view.array(scale).shape, -1, np.int8))
        view.set_array(name, weight - np.int8(1))
        del dequantize.input[2:]
        dequantize.input.append(f"{name}_zero_point")
        count += 1
    view.rebuild(list(model.graph.node))
    return count


def same_outputs(first: Any, second: Any) -> bool:
    """Whether two sessions give the same outputs, to the last bit, for noise.

    The proof that the kernels for tiles are right: those of some versions were not (onnxruntime issue 26324).
    """
    image = first.get_inputs()[0]
    shape = [size if isinstance(size, int) else 1 for size in image.shape]
    noise = np.random.default_rng(0).random(shape, dtype=np.float32)
    fed = {image.name: (255 * noise).astype(np.uint8) if image.type == "tensor(uint8)" else noise}
    return all(map(np.array_equal, first.run(None, fed), second.run(None, fed)))
