"""Facts about an exported file, and the sidecar of an engine built from it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from yolov6core.engines.cpu import integer_arithmetic
from yolov6core.engines.onnx_facts import OnnxFacts
from yolov6core.engines.runtime import BuildSettings, EngineInfo, Shape, write_info
from yolov6core.exchange.graph_view import count_quantized
from yolov6core.exchange.interface import Interface
from yolov6core.exchange.onnx_notes import get_note
from yolov6core.exchange.overflow import overflowing_convolutions

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Built:
    """The report of a runtime on an engine that it has just built.

    Attributes:
        by: runtime, its version, device.
        file: the engine's file name in its folder.
        precision: of the layers that are not INT8.
        integer, real: names of the convolutions that run in INT8, and of the others; both empty if not known.
        seconds: duration of the build.
    """

    by: tuple[str, str, str]
    file: str
    precision: str
    integer: list[str]
    real: list[str]
    seconds: float


def plain_facts(path: Path) -> OnnxFacts:
    """Facts of an ONNX file for any runtime. Raises ValueError for a file that is not ONNX or takes no images."""
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, OSError) as error:
        raise ValueError(f"{path} cannot be read as ONNX ({error})") from None
    shape = next(iter(_shapes(model.graph.input).values()), ())
    if len(shape) != 4 or min(shape[1:]) < 1 or 3 not in shape[1:]:
        raise ValueError(f"{path} takes images of shape {shape}; [B, 3, H, W] or [B, H, W, 3] is needed")
    quantized, convs = count_quantized(model)
    return OnnxFacts(get_note(model, "dialect"), get_note(model, "precision", "fp32"), shape, quantized, convs)


def engine_info(onnx_path: Path, facts: OnnxFacts, settings: BuildSettings, built: Built) -> EngineInfo:
    """Everything that is known about an engine."""
    import onnx

    model = onnx.load(onnx_path, load_external_data=False)
    runtime, version, device = built.by
    known = bool(built.integer or built.real)
    return EngineInfo(
        runtime=runtime,
        version=version,
        device=device,
        file=built.file,
        dialect=facts.dialect,
        precision=built.precision,
        input_shape=_channels_first(facts.input_shape),
        settings=settings,
        convs=facts.convs,
        wanted_int8=facts.quantized,
        int8_convs=len(built.integer) if known else -1,
        float_layers=tuple(built.real) if len(built.integer) < facts.quantized else (),
        int8_share=round(len(built.integer) / facts.convs, 4) if facts.convs else 0.0,
        inputs=_shapes(model.graph.input),
        outputs=_shapes(model.graph.output),
        names=class_names(model),
        interface=Interface.of(model),
        cpu_sums=integer_arithmetic().of(runtime) if device == "CPU" else "",
        overflowing_convs=len(overflowing_convolutions(model)) if device == "CPU" else 0,
        build_s=round(built.seconds, 2),
    )


def record_engine(folder: Path, onnx_path: Path, facts: OnnxFacts, settings: BuildSettings, built: Built) -> EngineInfo:
    """Write the sidecar of an engine that was just built, and return it."""
    info = engine_info(onnx_path, facts, settings, built)
    write_info(folder, info)
    return info


def class_names(model: onnx.ModelProto) -> tuple[str, ...]:
    """Class names that a file carries: note `names`, a JSON list or a JSON object of number to name."""
    text = get_note(model, "names")
    if not text:
        return ()
    try:
        document = json.loads(text)
    except json.JSONDecodeError:
        return ()
    values = document.values() if isinstance(document, dict) else document
    return tuple(str(value) for value in values) if isinstance(document, dict | list) else ()


def _channels_first(shape: Shape) -> tuple[int, int, int, int]:
    """(B, 3, H, W) of an input in either order."""
    batch, first, second, third = shape
    return (batch, 3, second, third) if first == 3 else (batch, 3, first, second)


def _shapes(values: Iterable[onnx.ValueInfoProto]) -> dict[str, Shape]:
    return {
        value.name: tuple(
            dim.dim_value if dim.HasField("dim_value") else -1 for dim in value.type.tensor_type.shape.dim
        )
        for value in values
    }
