"""Reasons to complain about an engine that was built or measured."""

from __future__ import annotations

from yolov6core.engines.runtime import EngineInfo


def missing_int8(info: EngineInfo) -> str:
    """Says which layers run in float although the file quantizes them; empty if none does or nothing is known."""
    if not 0 <= info.int8_convs < info.wanted_int8:
        return ""
    return (
        f"FLOAT LAYERS THAT SHOULD BE INT8: the file quantizes {info.wanted_int8} convolutions, {info.runtime} runs "
        f"only {info.int8_convs} of them in INT8; float layers: {', '.join(info.float_layers)}"
    )


def no_gain(info: EngineInfo, speedup: float | None) -> str:
    """Says that an INT8 engine is not faster than the float engine; empty if it is or that was not measured."""
    if not info.wanted_int8 or speedup is None or speedup > 1:
        return ""
    layers = ", ".join(info.float_layers) or "those that the file leaves float"
    return (
        f"NOT FASTER THAN FLOAT ({speedup:.3g} times). {info.int8_convs} of {info.convs} convolutions run in INT8 with "
        f"{info.runtime}, float layers: {layers}; 'python -m stages doctor' shows the CPU's INT8 instructions"
    )
