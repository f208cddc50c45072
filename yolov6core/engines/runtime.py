"""What every runtime shares: how an engine is asked for, described, stored beside itself and run."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Protocol

import numpy as np

SIDECAR = "engine.json"


class EngineMismatch(ValueError):
    """An engine was built for another runtime, version or device than the one at hand."""


class RuntimeMissing(ValueError):
    """A runtime is not installed here, or its device is not there."""


@dataclass(frozen=True)
class BuildSettings:
    """How an engine is to be built and run.

    Attributes:
        threads: CPU threads of inference, 0 for all cores.
        hint: 'latency' (one image at a time) or 'throughput'.
        precision: what OpenVINO computes in where it is not INT8: 'f32', 'bf16' or 'f16'. TensorRT takes its precision
            from the file, ONNX Runtime's CPU kernels are f32.
        max_batch: largest batch of an engine with an open batch (TensorRT's optimisation profile).
    """

    threads: int = 0
    hint: str = "latency"
    precision: str = "f32"
    max_batch: int = 8

    def __post_init__(self) -> None:
        for name, allowed in (("hint", ("latency", "throughput")), ("precision", ("f32", "bf16", "f16"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(allowed)}")
        if self.threads < 0 or self.max_batch < 1:
            raise ValueError(f"threads is {self.threads}, max_batch {self.max_batch}; at least 0 and 1 are needed")


@dataclass(frozen=True)
class EngineInfo:
    """What `engine.json` holds beside an engine.

    Attributes:
        version: of the runtime that built it; engines are not carried to another version.
        device: 'CPU', or the GPU's name.
        file: the engine's file name in its folder.
        input_shape: (B, 3, H, W); B is -1 for an open batch.
        convs: convolutions in the exported file, transposed ones included.
        wanted_int8: those of them that the file quantizes.
        int8_convs: convolutions that the built engine really runs in INT8, by the runtime's own account; -1 if it
            gives none.
        float_layers: names of convolutions that the file quantizes and the engine runs in float (as far as known).
    """

    runtime: str
    version: str
    device: str
    file: str
    dialect: str
    precision: str
    input_shape: tuple[int, int, int, int]
    settings: BuildSettings
    convs: int
    wanted_int8: int
    int8_convs: int
    float_layers: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Text of the sidecar: equal contents, equal bytes."""
        return json.dumps(asdict(self), indent=2) + "\n"


class Engine(Protocol):
    """A network ready to run."""

    info: EngineInfo

    def infer(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images [B, 3, H, W] float32 RGB in 0..1 to boxes [B, A, 4] float32 xyxy pixels and scores [B, A, C]."""
        ...


class Runtime(Protocol):
    """A module that builds and runs engines of one kind."""

    NAME: str

    def version(self) -> str:
        """Version at hand. Raises RuntimeMissing, saying what to install."""
        ...

    def device(self) -> str:
        """Where engines run here. Raises RuntimeMissing."""
        ...

    def build(self, onnx_path: Path, folder: Path, settings: BuildSettings) -> EngineInfo:
        """Write an engine and its sidecar into `folder`. Raises ValueError for a file that does not fit."""
        ...

    def load(self, folder: Path, info: EngineInfo) -> Engine:
        """Open an engine. Raises EngineMismatch, RuntimeMissing."""
        ...


def write_info(folder: Path, info: EngineInfo) -> None:
    """Write the sidecar."""
    (folder / SIDECAR).write_text(info.to_json(), encoding="utf-8")


def read_info(folder: Path) -> EngineInfo:
    """Read the sidecar.

    Raises:
        EngineMismatch: no sidecar, or one with other fields (made by another version of this project).
    """
    path = folder / SIDECAR
    if not path.is_file():
        raise EngineMismatch(f"{path} is missing: build the engine first")
    document = json.loads(path.read_text(encoding="utf-8"))
    known = {field.name for field in fields(EngineInfo)}
    if set(document) != known:
        raise EngineMismatch(
            f"{path} has the fields {sorted(set(document) ^ known)} too many or too few: build it again"
        )
    document["input_shape"] = tuple(document["input_shape"])
    document["float_layers"] = tuple(document["float_layers"])
    document["settings"] = BuildSettings(**document["settings"])
    return EngineInfo(**document)


def check_info(info: EngineInfo, runtime: Runtime) -> None:
    """Refuse an engine of another runtime, version or device.

    Raises:
        EngineMismatch: names both sides.
    """
    here = {"runtime": runtime.NAME, "version": runtime.version(), "device": runtime.device()}
    for key, value in here.items():
        if getattr(info, key) != value:
            raise EngineMismatch(f"the engine was built for {key} {getattr(info, key)!r}, here it is {value!r}")


def check_images(images: np.ndarray, info: EngineInfo) -> np.ndarray:
    """Contiguous float32 images if they fit the engine's input. Raises ValueError otherwise."""
    expected = info.input_shape
    fits = images.ndim == 4 and images.shape[1:] == expected[1:] and expected[0] in (-1, images.shape[0])
    if not fits:
        raise ValueError(f"images have shape {images.shape}, the engine takes {expected} (-1: any number)")
    return np.ascontiguousarray(images, dtype=np.float32)
