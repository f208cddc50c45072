"""Integer grids, and the places where each kind of runtime wants quantizers, as frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

MIN_SCALE = 2.0**-24
"""Smallest scale in a graph: the smallest positive float16, so that a scale is positive in float16 and float32."""


@dataclass(frozen=True)
class Grid:
    """An integer grid of activations: real value = (integer - zero point) * scale.

    `symmetric` grids have zero point 0 and cover -amax .. amax. The others cover amin .. amax, zero point 0 for tensors
    that are never negative. For example INT8 of (-1, 2) has scale 2 / 127, UINT8 has scale 3 / 255 and zero point 85.
    `unsigned` is the grid for tensors that are never negative, if it is another one.
    """

    low: int
    high: int
    symmetric: bool
    unsigned: Grid | None = None

    def __post_init__(self) -> None:
        if not self.low <= 0 < self.high:
            raise ValueError(f"grid {self.low}..{self.high} must hold 0 and reach above it")
        if self.symmetric and self.low >= 0:
            raise ValueError(f"symmetric grid {self.low}..{self.high} needs negative integers")

    def of(self, amin: float) -> Grid:
        """The grid of a tensor whose smallest value is `amin`."""
        return self.unsigned if self.unsigned is not None and amin >= 0 else self

    def scale_and_zero_point(self, amin: float, amax: float) -> tuple[float, int]:
        """Scale (a float32 value, never below MIN_SCALE) and zero point for the real range amin .. amax.

        The range is widened to hold 0, so that zero padding is exact. A range of nothing but zero gets scale 1, which
        represents its zeros exactly.

        Raises:
            ValueError: a bound is not finite, or amin > amax.
        """
        if not (np.isfinite(amin) and np.isfinite(amax) and amin <= amax):
            raise ValueError(f"range {amin} .. {amax} is not an interval of finite numbers; calibrate again")
        amin, amax = min(amin, 0.0), max(amax, 0.0)
        if amin == amax:
            return 1.0, 0
        if self.symmetric:
            return _scale(max(-amin, amax) / self.high), 0
        scale = _scale((amax - amin) / (self.high - self.low))
        return scale, min(max(self.low + round(-amin / scale), self.low), self.high)


def _scale(value: float) -> float:
    return float(np.float32(max(value, MIN_SCALE)))


INT8 = Grid(-128, 127, symmetric=True)
UINT8 = Grid(0, 255, symmetric=False)
INT8_OR_UINT8 = Grid(-128, 127, symmetric=True, unsigned=UINT8)


@dataclass(frozen=True)
class Dialect:
    """How a kind of runtime wants activations and weights quantized.

    Attributes:
        grid: integer grid of every activation.
        edges: `inputs`: quantizers on the inputs of convolutions and max-pools. `through_concats`: the same, but a
            value that reaches them through a concat or a shuffle is quantized before it, not behind it. `all`: also on
            every convolution's output and before every concat or add.
        on_cpu: whether the files run on CPUs, so that weights have to suit the CPU's sums (see `saturation`).
    """

    name: str
    grid: Grid
    edges: Literal["inputs", "through_concats", "all"]
    on_cpu: bool = True

    def __post_init__(self) -> None:
        if self.edges not in ("inputs", "through_concats", "all"):
            raise ValueError(f"dialect {self.name!r}: edges is {self.edges!r}; choose inputs, through_concats or all")


DIALECTS: dict[str, Dialect] = {
    # TensorRT takes zero point 0 only, and fuses convolution, bias and activation by itself.
    "trt": Dialect("trt", INT8, "inputs", on_cpu=False),
    # Unsigned integers have twice the levels for results of ReLU. OpenVINO fuses a quantizer into a convolution only
    # if it is the only reader of the result: a quantizer before a concat must serve the other readers as well.
    "openvino": Dialect("openvino", INT8_OR_UINT8, "through_concats"),
    # ONNX Runtime forms an integer convolution only from DQ -> Conv -> (Relu) -> Q, with a Relu that the Q can absorb.
    "ort": Dialect("ort", UINT8, "all"),
    # Compilers of other makers: integers on every edge, and weights that need not suit a CPU's sums.
    "qdq": Dialect("qdq", UINT8, "all", on_cpu=False),
    "qdq_signed": Dialect("qdq_signed", INT8, "all", on_cpu=False),
    # The same integers on every edge: scales for TensorRT's calibration cache.
    "trt_all": Dialect("trt_all", INT8, "all", on_cpu=False),
    # For files in which OpenVINO computes wrong numbers on unsigned integers.
    "openvino_signed": Dialect("openvino_signed", INT8, "inputs"),
}


def dialect(name: str) -> Dialect:
    """Look up a dialect.

    Raises:
        ValueError: unknown name; the message lists the known ones.
    """
    if name not in DIALECTS:
        raise ValueError(f"quantization dialect {name!r} is unknown; choose one of {', '.join(DIALECTS)}")
    return DIALECTS[name]
