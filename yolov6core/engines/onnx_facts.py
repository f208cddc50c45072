"""Facts about an exported file that a builder needs before it starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from yolov6core.engines.compatibility import check_combination
from yolov6core.exchange.graph_view import count_quantized
from yolov6core.exchange.interface import PLAIN, Interface
from yolov6core.exchange.onnx_notes import get_note


@dataclass(frozen=True)
class OnnxFacts:
    """Dialect, precision, shape of the input, numbers of quantized and of all convolutions, and the interface.

    `input_shape` is (B, 3, H, W), or (B, H, W, 3) where the file takes uint8 pixels; B is -1 if open.
    """

    dialect: str
    precision: str
    input_shape: tuple[int, ...]
    quantized: int
    convs: int
    interface: Interface = PLAIN


def read_facts(path: Path, runtime: str, *, version: str | None = None) -> OnnxFacts:
    """Read a file. Raises ValueError if `runtime` would compute it incorrectly."""
    import onnx

    model = onnx.load(path)
    check_combination(model, runtime, version=version)
    dims = model.graph.input[0].type.tensor_type.shape.dim
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in dims)
    quantized, convs = count_quantized(model)
    dialect, precision = get_note(model, "dialect", "unknown"), get_note(model, "precision", "fp32")
    return OnnxFacts(dialect, precision, shape, quantized, convs, Interface.of(model))
