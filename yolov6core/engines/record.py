"""Facts about an exported file, and the sidecar of an engine built from it."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from yolov6core.engines.class_names import names_in_order
from yolov6core.engines.cpu import integer_arithmetic
from yolov6core.engines.onnx_facts import OnnxFacts
from yolov6core.engines.runtime import BuildSettings, EngineInfo, Shape, WrongFile, write_info
from yolov6core.exchange.graph_view import count_quantized
from yolov6core.exchange.interface import Interface
from yolov6core.exchange.onnx_notes import get_note
from yolov6core.exchange.overflow import overflowing_convolutions

if TYPE_CHECKING:
    import onnx

MAX_NAMES_TEXT = 2**22


@dataclass(frozen=True)
class Built:
    """The report of a runtime on an engine that it has just built.

    Attributes:
        by: runtime, its version, device.
        file: the engine's file name in its folder.
        precision: of the layers that are not INT8.
        integer, real: names of the convolutions that run in INT8, and of the others; both empty if not known.
    """

    by: tuple[str, str, str]
    file: str
    precision: str
    integer: list[str]
    real: list[str]


def plain_facts(path: Path) -> OnnxFacts:
    """Facts of an ONNX file for any runtime.

    Raises:
        WrongFile: it is not ONNX, takes no images, or is made for another task.
    """
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, OSError, ValueError) as error:
        raise WrongFile(f"{path} cannot be read as ONNX ({error})") from None
    _refuse_external_data(model, path)
    _refuse_other_tasks(model, path)
    shape = _image_shape(model, path)
    quantized, convs = count_quantized(model)
    return OnnxFacts(get_note(model, "dialect"), get_note(model, "precision", "fp32"), shape, quantized, convs)


def _image_shape(model: onnx.ModelProto, path: Path) -> Shape:
    """Shape of the only input, which takes images as this project feeds them."""
    from onnx import TensorProto

    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    if len(inputs) != 1:
        raise WrongFile(
            f"{path} has {len(inputs)} inputs ({', '.join(v.name for v in inputs)}); one of images is needed"
        )
    shape, kind = _shapes(inputs)[inputs[0].name], inputs[0].type.tensor_type.elem_type
    if len(shape) != 4 or min(shape[1:]) < 1 or 3 not in (shape[1], shape[3]):
        raise WrongFile(
            f"{path} takes images of shape {shape}; [B, 3, H, W] or [B, H, W, 3] is needed, with fixed height and width"
        )
    pixels = _interface(model, path).input == "uint8"
    needed, order = (TensorProto.UINT8, 3) if pixels else (TensorProto.FLOAT, 1)
    if kind != needed or shape[order] != 3:
        raise WrongFile(
            f"{path} takes {TensorProto.DataType.Name(kind).lower()} images of shape {shape}; float [B, 3, H, W] in "
            "0..1 is needed (uint8 [B, H, W, 3] for files of this project that say so): export it with float32 inputs"
        )
    return shape


def _interface(model: onnx.ModelProto, path: Path) -> Interface:
    try:
        return Interface.of(model)
    except ValueError as error:
        raise WrongFile(f"{path} describes inputs or outputs that are unknown here ({error})") from None


def _refuse_other_tasks(model: onnx.ModelProto, path: Path) -> None:
    task = get_note(model, "task", "detect")
    if task != "detect":
        raise WrongFile(f"{path} is made for the task {task[:40]!r}; networks that give boxes and classes run here")


def _refuse_external_data(model: onnx.ModelProto, path: Path) -> None:
    """Refuse weights in other files that are missing, elsewhere, or no regular files."""
    places = {
        entry.value for tensor in model.graph.initializer for entry in tensor.external_data if entry.key == "location"
    }
    for place in sorted(places):
        file = path.parent / place
        if Path(place).is_absolute() or ".." in Path(place).parts or not file.is_file():
            raise WrongFile(
                f"{path} needs weights in {place[:200]!r} beside it, which is no file there; copy it as well"
            )


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
        input_shape=channels_first(facts.input_shape),
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
    )


def record_engine(folder: Path, onnx_path: Path, facts: OnnxFacts, settings: BuildSettings, built: Built) -> EngineInfo:
    """Write the sidecar of an engine that was just built, and return it."""
    info = engine_info(onnx_path, facts, settings, built)
    write_info(folder, info)
    return info


def channels_first(shape: Shape) -> tuple[int, int, int, int]:
    """(B, 3, H, W) of an input in either order."""
    batch, first, second, third = shape
    return (batch, 3, second, third) if first == 3 else (batch, 3, first, second)


def class_names(model: onnx.ModelProto) -> tuple[str, ...]:
    """Class names that a file carries: note `names`, a list or a table of number to name, in JSON or as Python writes
    it (Ultralytics); none if it holds something else."""
    text = get_note(model, "names")
    if not text or len(text) > MAX_NAMES_TEXT:
        return ()
    for parse in (json.loads, ast.literal_eval):
        try:
            return names_in_order(parse(text))
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
    return ()


def _shapes(values: Iterable[onnx.ValueInfoProto]) -> dict[str, Shape]:
    return {
        value.name: tuple(
            dim.dim_value if dim.HasField("dim_value") else -1 for dim in value.type.tensor_type.shape.dim
        )
        for value in values
    }
