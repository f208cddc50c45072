"""What a bundle is made of: the request of the user, and the ONNX files that the target needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from yolov6core.engines.compatibility import RUNTIME_DIALECT, TENSORRT_8_OPSET
from yolov6core.export.check import Tolerance
from yolov6core.export.file_form import FileForm
from yolov6core.export.fp16 import MIN_OPSET

TARGETS = ("tensorrt", "openvino", "onnxruntime")
TENSORRT = ("8", "10", "11")
"""Major versions that bundles are made for."""


@dataclass(frozen=True)
class BundleRequest:
    """A network and the form that its files are to have.

    Attributes:
        kind: float, ptq, partial or qat.
        target: one of TARGETS.
        weights: checkpoint of the network.
        dataset: folder of the prepared dataset, whose calibration images become the pictures in `check/`.
        allow: how far the files may be from torch.
        files: their form; TensorRT's files have an open batch, always.
        max_batch: largest batch of an engine with an open batch.
        tensorrt: which of TENSORRT the bundle is for; empty for all, which takes more room.
    """

    kind: str
    target: str
    weights: Path
    dataset: Path
    allow: Tolerance
    files: FileForm = FileForm()
    max_batch: int = 32
    tensorrt: str = ""

    @property
    def open_batch(self) -> bool:
        """Whether the files take any number of images."""
        return self.files.dynamic_batch or self.target == "tensorrt"

    def wants(self, version: str) -> bool:
        """Whether the bundle is for this version of TensorRT."""
        return not self.tensorrt or version.split(".")[0] == self.tensorrt


@dataclass(frozen=True)
class PlannedFile:
    """An ONNX file of a bundle.

    Attributes:
        name: of the file.
        dialect, opset, fp16: see `export.dialects.write_traced`.
        reads: which versions of the runtime read it, in words.
        versions: of TensorRT that have to take it.
    """

    name: str
    dialect: str
    opset: int
    reads: str
    versions: tuple[str, ...] = ()
    fp16: bool = False


def planned_files(request: BundleRequest) -> list[PlannedFile]:
    """The files that the target needs, the one for present versions first.

    Raises:
        ValueError: unknown target or version of TensorRT.
    """
    if request.target not in TARGETS:
        raise ValueError(f"target {request.target!r} is unknown; choose one of {', '.join(TARGETS)}")
    if request.tensorrt and request.target != "tensorrt":
        raise ValueError(f"a version of TensorRT ({request.tensorrt}) is for target tensorrt only; leave it out")
    if request.tensorrt and request.tensorrt not in TENSORRT:
        raise ValueError(f"TensorRT {request.tensorrt!r} is unknown; choose one of {', '.join(TENSORRT)}")
    if request.target != "tensorrt":
        dialect = RUNTIME_DIALECT[request.target]
        return [PlannedFile("model.onnx", dialect, request.files.opset, request.target)]
    present = PlannedFile(
        "model.onnx",
        "trt",
        max(request.files.opset, MIN_OPSET),
        "TensorRT 10 and 11, TensorRT-RTX",
        versions=("10.3.0", "11.4.0"),
        fp16=request.files.fp16,
    )
    earlier = PlannedFile("model.opset17.onnx", "trt", TENSORRT_8_OPSET, "TensorRT 8.6", versions=("8.6.1",))
    cached = PlannedFile(
        "model.plain.onnx",
        "cache",
        TENSORRT_8_OPSET,
        "TensorRT 8.6 to 10, with a calibration cache",
        versions=("8.6.1", "10.3.0"),
    )
    files = [present, earlier] if request.kind == "float" else [present, earlier, cached]
    return [planned for planned in files if any(map(request.wants, planned.versions))]
