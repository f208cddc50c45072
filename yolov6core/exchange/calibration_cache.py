"""TensorRT's calibration cache: a text file of one scale per tensor, read by TensorRT 8 to 10 (11 removed it)."""

from __future__ import annotations

import re
import struct
from pathlib import Path

HEADER = "TRT-{version}-EntropyCalibration2"
FIRST_VERSION, LAST_VERSION = 8, 10


def cache_path(onnx_path: Path) -> Path:
    """The cache of an ONNX file: `ptq.cache` beside `ptq.cache.onnx`, `model.cache` beside `model.onnx`."""
    return onnx_path.with_suffix("") if onnx_path.stem.endswith(".cache") else onnx_path.with_suffix(".cache")


def write_cache(scales: dict[str, float], *, version: str = "10000") -> str:
    """The text of a cache.

    Args:
        scales: tensor name -> scale (largest absolute value / 127), positive.
        version: TensorRT's version as its header writes it (8.6.1 -> 8601); TensorRT compares it and recalibrates on a
            difference, unless the calibrator passes the cache without a header check.

    Raises:
        ValueError: a scale that is not positive and finite; a tensor name with ': '.
    """
    lines = [HEADER.format(version=version)]
    for name, scale in scales.items():
        if not 0 < scale < float("inf"):
            raise ValueError(f"tensor {name} has scale {scale}; it must be positive and finite, so calibrate it again")
        if ": " in name:
            raise ValueError(f"tensor name {name!r} holds ': ', which separates name and scale in a calibration cache")
        lines.append(f"{name}: {struct.pack('>f', scale).hex()}")  # big-endian IEEE 754
    return "\n".join(lines) + "\n"


def read_cache(text: str) -> dict[str, float]:
    """Tensor name -> scale. Raises ValueError for another header or a broken line."""
    header, *lines = text.splitlines() or [""]
    if not (header.startswith("TRT-") and header.endswith("-EntropyCalibration2")):
        raise ValueError(f"not a calibration cache of the entropy-2 calibrator: it starts with {header!r}")
    scales = {}
    for line in lines:
        name, separator, digits = line.rpartition(": ")
        if not separator or not re.fullmatch("[0-9a-fA-F]{8}", digits):
            raise ValueError(f"broken line in calibration cache: {line!r}; expected 'tensor: 8 hexadecimal digits'")
        (scales[name],) = struct.unpack(">f", bytes.fromhex(digits))
    return scales
