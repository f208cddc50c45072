"""Reasons to complain about an engine that was built or measured."""

from __future__ import annotations

from yolov6core.engines import cpu
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


def saturates_here(info: EngineInfo) -> bool:
    """Whether an engine has weights whose sums saturate on the CPU at hand."""
    if info.device != "CPU" or not info.overflowing_convs:
        return False
    return cpu.integer_arithmetic().of(info.runtime) == "saturating"


def is_wrong_here(info: EngineInfo) -> bool:
    """Whether an engine computes wrong sums on the CPU at hand. ONNX Runtime is set to add in 32 bits where needed."""
    return saturates_here(info) and info.runtime != "onnxruntime"


def second_classes(info: EngineInfo) -> str:
    """Says that the suppression in a file may leave a box in its second class; empty where it cannot."""
    interface = info.interface
    if interface.nms == "none" or interface.nms_classes == "best" or interface.classes < 2:
        return ""
    return (
        "boxes may be listed by their second class, where the suppression inside the file took away their best one; "
        "export.nms_classes=best lists them as without suppression inside"
    )


def unsuitable_cpu(info: EngineInfo) -> str:
    """A message on an engine whose weights do not suit the CPU at hand; empty where they do."""
    if not saturates_here(info):
        return ""
    found = f"{info.overflowing_convs} convolutions have weights that overflow the 16-bit sums of this CPU (no VNNI)"
    mend = "calibrate with ptq.cpu saturating (auto takes it here), export and build again"
    if is_wrong_here(info):
        return f"WRONG SUMS: {found}: {mend}"
    return f"INT8 WITHOUT GAIN: {found}, so that {info.runtime} adds in 32 bits, about as slow as float: {mend}"
