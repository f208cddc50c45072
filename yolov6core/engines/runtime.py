"""The common part of all runtimes: build settings, the description of an engine, its sidecar, and protocols."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from yolov6core.engines.build_settings import BuildSettings
from yolov6core.engines.layouts import UnknownLayout, layout_of, read_rows
from yolov6core.engines.sidecar import AGAIN, WrongSidecar, checked_values
from yolov6core.exchange.interface import Interface

SIDECAR = "engine.json"
Shape = tuple[int, ...]


class EngineMismatch(ValueError):
    """An engine was built for another runtime, version or device than the one at hand."""


class RuntimeMissing(ValueError):
    """A runtime is not installed here, or its device is not there."""


@dataclass(frozen=True)
class EngineInfo:
    """The contents of `engine.json` beside an engine.

    Attributes:
        version: of the runtime that built it; engines do not run on another version.
        device: 'CPU', or the GPU's name.
        file: the engine's file name in its folder.
        input_shape: (B, 3, H, W); B is -1 for an open batch.
        convs: convolutions in the exported file, transposed ones included.
        wanted_int8: convolutions that the file quantizes.
        int8_convs: convolutions that the built engine runs in INT8, as the runtime reports them; -1 if it does not.
        float_layers: names of the convolutions that run in float, if they are more than the file leaves float.
        int8_share: `int8_convs` of `convs`; 0 if not known.
        inputs, outputs: name to shape, -1 for an open batch.
        names: of the classes, empty if the file does not say.
        interface: form of inputs and outputs; engines hide it.
        cpu_sums: how the CPU that built it adds 8-bit products, 'exact' or 'saturating'; empty for GPUs.
        overflowing_convs: quantized convolutions that are wrong where sums saturate; 0 for GPUs.
        deviation: relative L2 distance of its outputs from exact arithmetic, on the export's images; -1 if not tried.
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
    int8_share: float = 0.0
    inputs: dict[str, Shape] = field(default_factory=dict)
    outputs: dict[str, Shape] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    interface: Interface = Interface()
    cpu_sums: str = ""
    overflowing_convs: int = 0
    deviation: float = -1.0

    def to_json(self) -> str:
        """Text of the sidecar: equal contents, equal bytes."""
        return json.dumps(asdict(self), indent=2) + "\n"

    def describe(self) -> str:
        """One line for people."""
        batch = "any" if self.input_shape[0] == -1 else self.input_shape[0]
        height, width = self.input_shape[2:]
        if self.wanted_int8 and self.int8_convs >= 0:
            precision = f"INT8 in {self.int8_convs} of {self.convs} convolutions, {self.precision} elsewhere"
        else:
            precision = f"{self.wanted_int8} of {self.convs} convolutions quantized, {self.precision} elsewhere"
        if not self.wanted_int8:
            precision = self.precision
        threads = f"{self.settings.threads or 'all'} threads, " if self.device == "CPU" else ""
        device = f"{self.device} with {self.cpu_sums} integer sums" if self.cpu_sums else self.device
        return (
            f"{self.runtime} {self.version} on {device}, {precision}, {threads}batch {batch}, {height} x {width}, "
            f"hint {self.settings.hint}"
        )


class WrongFile(ValueError):
    """A file that no runtime could make a detector of."""


class Engine(Protocol):
    """A network ready to run."""

    info: EngineInfo

    def infer(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images [B, 3, H, W] float32 RGB in 0..1 to boxes [B, A, 4] xyxy pixels and scores [B, A, C], both float32."""
        ...

    def stream(self, images: np.ndarray, count: int) -> None:
        """Run one batch [B, 3, H, W] `count` times as fast as the runtime can, several at once where it can."""
        ...


@runtime_checkable
class OnGpu(Protocol):
    """An engine that runs on a GPU, whose clock tells the time without copies."""

    def compute_ms(self, images: np.ndarray, count: int) -> list[float]:
        """Milliseconds of each of `count` runs of one batch [B, 3, H, W], without copies and without Python's part."""
        ...


class Runtime(Protocol):
    """A module or object that builds and runs engines of one kind."""

    @property
    def NAME(self) -> str:
        """Key of `registry.RUNTIMES`."""
        ...

    def version(self) -> str:
        """Installed version. Raises RuntimeMissing, which names the command to install it."""
        ...

    def device(self) -> str:
        """Name of the device that engines run on here. Raises RuntimeMissing."""
        ...

    def build(self, onnx_path: Path, folder: Path, settings: BuildSettings) -> EngineInfo:
        """Write an engine and its sidecar into `folder`. Raises ValueError for a file that does not fit."""
        ...

    def load(self, folder: Path, info: EngineInfo) -> Engine:
        """Open an engine. Raises EngineMismatch, RuntimeMissing."""
        ...

    def load_exact(self, folder: Path, info: EngineInfo) -> Engine | None:
        """Open an engine that rounds to the same integers and adds them in float; None where all sums are exact."""
        ...


class FileRuntime(Protocol):
    """A module that runs ONNX files without building an engine first."""

    def open_file(self, path: Path, settings: BuildSettings) -> Engine:
        """Open a file. Raises ValueError where the runtime refuses it, RuntimeMissing."""
        ...


def write_info(folder: Path, info: EngineInfo) -> None:
    """Write the sidecar."""
    (folder / SIDECAR).write_text(info.to_json(), encoding="utf-8")


def read_info(folder: Path) -> EngineInfo:
    """Read the sidecar.

    Raises:
        EngineMismatch: there is no sidecar, it has other fields (made by another version of this project), or values
            that no build writes. The message names file and field.
    """
    path = folder / SIDECAR
    if not path.is_file():
        raise EngineMismatch(f"{path} is missing: build the engine first")
    try:
        values = checked_values(path, (entry.name for entry in fields(EngineInfo)))
        values["settings"] = BuildSettings(**values["settings"])
        values["interface"] = Interface(**values["interface"])
        info = EngineInfo(**values)
        _check_whole(info)
    except WrongSidecar as error:
        raise EngineMismatch(str(error)) from None
    except ValueError as error:
        raise EngineMismatch(f"{path}: {error}; {AGAIN}") from None
    return info


def _check_whole(info: EngineInfo) -> None:
    """Refuse fields that contradict each other."""
    if info.interface.shrink >= min(info.input_shape[2:]):
        raise ValueError(f"the grey frame of {info.interface.shrink} pixels leaves nothing of the input")
    if max(info.int8_convs, info.wanted_int8) > info.convs:
        raise ValueError(f"more convolutions are INT8 than the {info.convs} that there are")
    if info.interface.nms != "none" and info.interface.classes < 1:
        raise ValueError("a suppression in the graph needs the number of classes")


def check_info(info: EngineInfo, runtime: Runtime) -> None:
    """Refuse an engine of another runtime, version or device, unless it was built for others, too.

    Raises:
        EngineMismatch: names both sides.
    """
    here = {"runtime": runtime.NAME, "version": runtime.version(), "device": runtime.device()}
    if info.settings.hardware_compatibility != "none":
        del here["device"]  # the library refuses GPUs that it does not run on
    if info.settings.version_compatible and _is_later(here["version"], info.version):
        del here["version"]
    for key, value in here.items():
        if getattr(info, key) != value:
            raise EngineMismatch(f"the engine was built for {key} {getattr(info, key)!r}, here it is {value!r}")


def _is_later(here: str, built: str) -> bool:
    """Whether a version is a later one of the same major number, or the same."""
    ours, theirs = ([int(part) for part in re.findall(r"\d+", text)] for text in (here, built))
    return ours[:1] == theirs[:1] and ours >= theirs


def feed(images: np.ndarray, info: EngineInfo) -> np.ndarray:
    """Images [B, 3, H, W] float32 RGB in 0..1, contiguous and in the form the network takes.

    Raises:
        ValueError: they do not fit the engine's input.
    """
    expected = info.input_shape
    fits = images.ndim == 4 and images.shape[1:] == expected[1:] and expected[0] in (-1, images.shape[0])
    if not fits:
        raise ValueError(f"images have shape {images.shape}, the engine takes {expected} (-1: any number)")
    return info.interface.feed(images)


def finish(outputs: Mapping[str, np.ndarray], info: EngineInfo) -> tuple[np.ndarray, np.ndarray]:
    """Outputs of a network, by name, to boxes [B, A, 4] xyxy pixels and scores [B, A, C] in 0..1.

    Files of this project describe their outputs (`Interface`). Others may have one output in a known layout
    (`layouts`).

    Raises:
        UnknownLayout: the outputs have no known form.
    """
    if set(info.interface.outputs) <= outputs.keys():
        return info.interface.finish(outputs, (info.input_shape[2], info.input_shape[3]))
    if len(outputs) != 1:
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in outputs.items())
        raise UnknownLayout(
            f"the network gives {shapes}; {', '.join(info.interface.outputs)} are needed, or one output of boxes and "
            "scores: export it without masks, key points, or suppression of another toolkit"
        )
    (rows,) = outputs.values()
    layout = layout_of(rows.shape, (info.input_shape[2], info.input_shape[3]), len(info.names))
    return read_rows(rows, layout, len(info.names))


def lists_detections(info: EngineInfo) -> bool:
    """Whether outputs are what a suppression in the graph has left, one class a row, and not all anchors."""
    if info.interface.nms != "none":
        return True
    if set(info.interface.outputs) <= info.outputs.keys() or len(info.outputs) != 1:
        return False
    (shape,) = info.outputs.values()
    try:
        layout = layout_of((1, *shape[1:]), (info.input_shape[2], info.input_shape[3]), len(info.names))
    except UnknownLayout:
        return False
    return layout.kind == "detections"


def infer_any(engine: Engine, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Run any number of images through an engine of any batch size; the last part is padded with its first image.

    Args and returns: see `Engine.infer`.
    """
    batch = engine.info.input_shape[0]
    size = engine.info.settings.max_batch if batch == -1 else batch
    parts = [images[start : start + size] for start in range(0, len(images), size)]
    if batch != -1 and len(parts[-1]) < batch:
        missing = batch - len(parts[-1])
        parts[-1] = np.concatenate((parts[-1], np.repeat(parts[-1][:1], missing, axis=0)))
    boxes, scores = zip(*(engine.infer(part) for part in parts), strict=True)
    return np.concatenate(boxes)[: len(images)], np.concatenate(_widened(scores))[: len(images)]


def _widened(scores: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Scores [B, A, C] of several parts with the same C: files that do not say it may show more classes later on."""
    width = max(part.shape[2] for part in scores)
    return [np.pad(part, ((0, 0), (0, 0), (0, width - part.shape[2]))) for part in scores]
