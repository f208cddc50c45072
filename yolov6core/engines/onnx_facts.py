"""Facts about an exported file that a builder needs before it starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from yolov6core.engines.compatibility import check_combination
from yolov6core.exchange.graph_view import (
    CONVOLUTIONS,
    convolutions,
    count_quantized,
    groups_of,
    made_before_convolutions,
)
from yolov6core.exchange.interface import PLAIN, Interface
from yolov6core.exchange.onnx_notes import JUDGED_ON, get_note


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


def other_integers(path: Path) -> str:
    """Says that a file rounds to other integers than those that its network was judged on; empty if it does not."""
    import onnx

    judged = get_note(onnx.load(path, load_external_data=False), JUDGED_ON)
    if not judged:
        return ""
    return (
        f"JUDGED ON OTHER INTEGERS: methods, float layers and QAT were chosen on the grid of dialect {judged}, this "
        "file rounds on another one: set ptq.dialect to the dialect of the engine's runtime (or auto): run 'dvc repro'"
    )


def slower_than_float(path: Path, runtime: str) -> str:
    """Says that a runtime takes longer for a file's INT8 than for its float network; empty where that is not known.

    So it is with Lite networks in ONNX Runtime, which take 1.5 times as long (docs/int8_layers.md). Networks with only
    one of the two causes are not: with SiLU behind every convolution and no depthwise one, INT8 is faster.
    """
    import onnx

    if runtime != "onnxruntime":
        return ""
    model = onnx.load(path, load_external_data=False)
    nodes = [node for node in model.graph.node if node.op_type in CONVOLUTIONS]
    quantized = zip(nodes, convolutions(model).values(), strict=True)
    depthwise = sum(integer and groups_of(node) > 1 for node, integer in quantized)
    hard_swishes = sum(node.op_type == "HardSwish" for node in model.graph.node)
    if 5 * depthwise < len(nodes) or 2 * hard_swishes < len(nodes):
        return ""
    return (
        f"{depthwise} of {len(nodes)} convolutions are depthwise in INT8, and {hard_swishes} hard swishes stand behind "
        "convolutions: ONNX Runtime has no integers for these, and takes longer than for the float network"
    )


@dataclass(frozen=True)
class FileLayers:
    """Names of nodes of a file: all convolutions, those that stay float, and the nodes behind the last convolutions."""

    convolutions: tuple[str, ...]
    float_convolutions: tuple[str, ...]
    decoding: tuple[str, ...]


def file_layers(path: Path) -> FileLayers:
    """Read the names of a file's layers."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    found, before = convolutions(model), made_before_convolutions(model)
    decoding = (node.name for node in model.graph.node if node.name and not before.issuperset(node.output))
    floats = (name for name, quantized in found.items() if not quantized)
    return FileLayers(tuple(found), tuple(floats), tuple(decoding))
