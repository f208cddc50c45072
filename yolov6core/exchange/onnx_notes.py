"""Entries of this project in the metadata of ONNX files: dialect, precision, names, interface."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

INPUT = "images"
"""Name of the networks' input."""
QUANTIZED = "quantized_convolutions"
"""Entry of files without Q/DQ, whose scales stand in a calibration cache: names of the quantized convolutions, JSON."""
JUDGED_ON = "judged_on"
"""Entry of files that round to other integers than those of the dialect that their network was judged on: its name."""


def get_note(model: onnx.ModelProto, key: str, default: str = "") -> str:
    """One entry of the model's own metadata."""
    return next((entry.value for entry in model.metadata_props if entry.key == key), default)


def set_note(model: onnx.ModelProto, key: str, value: str) -> None:
    """Write one entry of the model's own metadata, replacing an older one."""
    kept = [entry for entry in model.metadata_props if entry.key != key]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    entry = model.metadata_props.add()
    entry.key, entry.value = key, value
