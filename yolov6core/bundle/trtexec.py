"""Command lines of trtexec, NVIDIA's builder of TensorRT engines, for the files of a bundle.

TensorRT 11 has only strongly typed networks and neither --int8 nor --calib (NVIDIA, "Migrating trtexec Usage from
TensorRT 10.x to 11.x"). A calibration cache begins with the version of TensorRT that is to read it; with another
version TensorRT calibrates anew, which trtexec does on random numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

CACHE_VERSIONS = {"8.6.1": "8601", "10.3.0": "100300"}
"""TensorRT's version -> as the first line of a cache writes it; 10.3.0 is the version of JetPack 6."""


def cache_name(version: str) -> str:
    """Name of the calibration cache for a version of TensorRT."""
    return f"calib.trt{version}.table"


@dataclass(frozen=True)
class BuildLine:
    """A way to build an engine: which TensorRT, from which file, with which options."""

    version: str
    file: str
    options: tuple[str, ...]

    def command(self, shape: tuple[int, ...], batches: tuple[int, int, int]) -> str:
        """The line, for an input of `shape` without the batch, and the smallest, best and largest batch."""
        sides = "x".join(map(str, shape))
        low, best, high = (f"images:{batch}x{sides}" for batch in batches)
        shapes = [f"--minShapes={low}", f"--optShapes={best}", f"--maxShapes={high}"]
        if len(set(batches)) == 1:
            shapes = [f"--shapes={low}"]
        return " ".join(["trtexec", f"--onnx={self.file}", "--saveEngine=model.engine", *self.options, *shapes])


def build_lines(*, quantized: bool) -> dict[str, list[BuildLine]]:
    """Route -> lines for TensorRT 8.6, 10 and 11; the route of a cache is for quantized networks only."""
    weak = ("--int8", "--fp16") if quantized else ("--fp16",)
    routes = {
        "Q/DQ" if quantized else "float": [
            BuildLine("11", "model.onnx", ()),
            BuildLine("10", "model.onnx", ("--stronglyTyped",)),
            BuildLine("8.6", "model.opset17.onnx", weak),
        ]
    }
    if quantized:
        routes["calibration cache"] = [
            BuildLine("10.3", "model.plain.onnx", (*weak, f"--calib={cache_name('10.3.0')}")),
            BuildLine("8.6", "model.plain.onnx", (*weak, f"--calib={cache_name('8.6.1')}")),
        ]
    return routes
