"""All runtimes, their availability on this machine, and the choice of `auto`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from yolov6core.base.errors import brief
from yolov6core.engines import onnxruntime_engine, opencv_engine, openvino_engine
from yolov6core.engines.compatibility import RUNTIME_DIALECT
from yolov6core.engines.layouts import UnknownLayout
from yolov6core.engines.record import plain_facts
from yolov6core.engines.runtime import (
    BuildSettings,
    Engine,
    EngineInfo,
    EngineMismatch,
    FileRuntime,
    Runtime,
    RuntimeMissing,
    check_info,
    read_info,
)
from yolov6core.engines.tensorrt_engine import TensorRtRuntime
from yolov6core.engines.tensorrt_import import cuda_device
from yolov6core.engines.trial import try_once

RUNTIMES: dict[str, Runtime] = {
    "tensorrt": TensorRtRuntime("tensorrt"),
    "tensorrt_rtx": TensorRtRuntime("tensorrt_rtx"),
    "openvino": openvino_engine,
    "onnxruntime": onnxruntime_engine,
}
"""Name -> builder and loader, in the order in which `auto` prefers them."""
FILE_RUNTIMES: dict[str, FileRuntime] = {
    "openvino": openvino_engine,
    "onnxruntime": onnxruntime_engine,
    "opencv": opencv_engine,
}
"""Name -> module that runs an ONNX file as it is, in the order in which `auto` tries them."""


@dataclass(frozen=True)
class Availability:
    """Abilities of a runtime here: it can build if `problem` is empty, and run engines if `runs`."""

    name: str
    version: str
    problem: str
    runs: bool


def survey() -> list[Availability]:
    """All runtimes and their availability here, in order of preference."""
    return [_probe(name) for name in RUNTIMES]


def _probe(name: str) -> Availability:
    runtime = RUNTIMES[name]
    version = ""
    try:
        version = runtime.version()
        if name == "tensorrt":
            cuda_device()
    except RuntimeMissing as error:
        return Availability(name, version, str(error), runs=False)
    if name == "tensorrt_rtx":
        try:
            cuda_device()
        except RuntimeMissing:
            return Availability(name, version, "", runs=False)
    return Availability(name, version, "", runs=True)


def pick_runtime(wanted: str) -> tuple[str, str]:
    """Resolve `auto`.

    Args:
        wanted: key of RUNTIMES, or 'auto'.

    Returns: name, and the reason for the choice, in words.

    Raises:
        RuntimeMissing: the wanted runtime, or every one, is missing here.
        ValueError: unknown name.
    """
    if wanted != "auto":
        if wanted not in RUNTIMES:
            raise ValueError(f"runtime {wanted!r} is unknown; choose auto or one of {', '.join(RUNTIMES)}")
        found = _probe(wanted)
        if found.problem:
            raise RuntimeMissing(found.problem)
        return wanted, "asked for"
    skipped = []
    for candidate in RUNTIMES:
        found = _probe(candidate)
        if found.runs:
            return candidate, "auto: " + "; ".join([*skipped, f"{candidate} {found.version} runs here"])
        skipped.append(f"{candidate}: {found.problem or 'builds here, but cannot run without a GPU'}")
    raise RuntimeMissing("no runtime is usable here: " + "; ".join(skipped))


def dialect_of(runtime: str) -> str:
    """Dialect of the files that a runtime is built from; of the one that `auto` picks here.

    Raises:
        RuntimeMissing: auto finds none. ValueError: unknown name.
    """
    return RUNTIME_DIALECT[runtime if runtime in RUNTIME_DIALECT else pick_runtime(runtime)[0]]


def open_file(path: Path, runtime: str, settings: BuildSettings) -> tuple[Engine, str]:
    """Open an ONNX file without building an engine.

    Args:
        runtime: key of FILE_RUNTIMES, or 'auto' for the first of them that takes the file.

    Returns: the engine, and the reason for the choice of its runtime, in words.

    Raises:
        RuntimeMissing, ValueError: the runtime, or every one, is missing or refuses the file, or the file is no
            detector whose inputs and outputs are known.
    """
    if runtime != "auto":
        if runtime not in FILE_RUNTIMES:
            raise ValueError(f"{runtime} does not run ONNX files; choose auto or one of {', '.join(FILE_RUNTIMES)}")
        plain_facts(path)
        return _open_file(path, runtime, settings), "asked for"
    plain_facts(path)
    refused = []
    for name in FILE_RUNTIMES:
        try:
            return _open_file(path, name, settings), "; ".join(["auto", *refused])
        except UnknownLayout:  # the next runtime would get the same outputs
            raise
        except ValueError as error:
            refused.append(f"{name}: {error}")
    raise ValueError(f"no runtime takes {path}: " + "; ".join(refused))


def _open_file(path: Path, runtime: str, settings: BuildSettings) -> Engine:
    """Open a file and run it once. Raises ValueError, whatever the library raises."""
    try:
        engine = FILE_RUNTIMES[runtime].open_file(path, settings)
    except ValueError:
        raise
    except Exception as error:  # libraries have no common base class
        raise ValueError(f"{runtime} cannot read it ({brief(error)})") from None
    try_once(engine)
    return engine


def open_engine(folder: Path) -> Engine:
    """Open the engine in `folder`.

    Raises:
        EngineMismatch: built for another runtime version or device, or without sidecar.
        RuntimeMissing: its runtime or device is missing here.
    """
    runtime, info = _runtime_of(folder)
    return runtime.load(folder, info)


def open_exact(folder: Path) -> Engine | None:
    """Open the engine in `folder` in exact arithmetic, as on a CPU whose sums do not saturate.

    Returns: None for runtimes of GPUs, whose sums are exact. Raises: see `open_engine`.
    """
    runtime, info = _runtime_of(folder)
    return runtime.load_exact(folder, info)


def _runtime_of(folder: Path) -> tuple[Runtime, EngineInfo]:
    info = read_info(folder)
    engine = folder / info.file
    if not engine.is_file() or not engine.stat().st_size:
        raise EngineMismatch(f"{engine} is {'empty' if engine.is_file() else 'missing, or no regular file'}")
    for path in folder.iterdir():  # a library would wait for a pipe without end
        if not path.is_file() and not path.is_dir():
            raise EngineMismatch(f"{path} is no regular file")
    if info.runtime not in RUNTIMES:
        raise EngineMismatch(f"{folder} was built for runtime {info.runtime!r}, which this version does not know")
    runtime = RUNTIMES[info.runtime]
    check_info(info, runtime)
    return runtime, info
