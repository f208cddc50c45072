"""What a builder has to know about an exported file before it starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from yolov6core.engines.dialects import check_combination
from yolov6core.engines.onnx_export import get_note
from yolov6core.engines.qdq import count_quantized
from yolov6core.engines.runtime import BuildSettings, EngineInfo, write_info


@dataclass(frozen=True)
class OnnxFacts:
    """Dialect, precision, input (B, 3, H, W) with B = -1 if open, and the numbers of (quantized) convolutions."""

    dialect: str
    precision: str
    input_shape: tuple[int, int, int, int]
    quantized: int
    convs: int


def read_facts(path: Path, runtime: str, *, version: str | None = None) -> OnnxFacts:
    """Read a file and refuse what `runtime` would compute wrongly. Raises ValueError."""
    import onnx

    model = onnx.load(path)
    check_combination(model, runtime, version=version)
    dims = model.graph.input[0].type.tensor_type.shape.dim
    batch, channels, height, width = (dim.dim_value if dim.HasField("dim_value") else -1 for dim in dims)
    quantized, convs = count_quantized(model)
    dialect = get_note(model, "dialect", "unknown")
    return OnnxFacts(dialect, get_note(model, "precision", "fp32"), (batch, channels, height, width), quantized, convs)


def record_engine(
    folder: Path,
    facts: OnnxFacts,
    settings: BuildSettings,
    *,
    built_by: tuple[str, str, str],
    file: str,
    precision: str,
    audit: tuple[list[str], list[str]],
) -> EngineInfo:
    """Write the sidecar of an engine that was just built, and return it.

    Args:
        built_by: runtime, its version, device.
        file: the engine's file name in `folder`.
        precision: of what is not INT8.
        audit: names of the convolutions that run in INT8, and of those that do not; both empty if not known.
    """
    integer, real = audit
    runtime, version, device = built_by
    info = EngineInfo(
        runtime=runtime,
        version=version,
        device=device,
        file=file,
        dialect=facts.dialect,
        precision=precision,
        input_shape=facts.input_shape,
        settings=settings,
        convs=facts.convs,
        wanted_int8=facts.quantized,
        int8_convs=len(integer) if integer or real else -1,
        float_layers=tuple(real) if len(integer) < facts.quantized else (),
    )
    write_info(folder, info)
    return info
