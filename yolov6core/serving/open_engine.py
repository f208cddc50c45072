"""Engines opened by the path that a user gives, and the class names that go with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from yolov6core.base.errors import UserError, brief, logger
from yolov6core.engines.registry import open_engine, open_file
from yolov6core.engines.runtime import (
    SIDECAR,
    BuildSettings,
    Engine,
    EngineMismatch,
    RuntimeMissing,
    lists_detections,
    read_info,
)
from yolov6core.engines.trial import try_once
from yolov6core.serving.names_file import names_in_file

REBUILD = "rebuild it here with 'dvc repro --force build-trt'"


def open_folder(folder: Path) -> Engine:
    """Open the engine of a folder.

    Raises:
        UserError: it is of another runtime, version or device, its runtime is missing, or its files are damaged.
    """
    try:
        engine = open_engine(folder)
        try_once(engine)
        return engine
    except EngineMismatch as error:
        raise UserError(f"{folder}: {error}; {REBUILD}") from None
    except RuntimeMissing as error:
        raise UserError(f"{folder}: {error}; choose another engine.runtime, or {REBUILD}") from None
    except Exception as error:  # what libraries raise for damaged files has no common base class
        raise UserError(
            f"{folder} is damaged, or its {SIDECAR} is of another engine ({brief(error)}); {REBUILD}"
        ) from None


def open_any(
    path: Path, runtime: str = "auto", *, settings: BuildSettings | None = None, option: str = "--engine "
) -> Engine:
    """Open an engine, or an ONNX file that no engine was built from.

    Args:
        path: folder with an engine, its file, or an ONNX file.
        runtime: key of `registry.FILE_RUNTIMES` for an ONNX file, or `auto`.
        settings: of a runtime that opens an ONNX file.
        option: that named the path, for messages.

    Raises:
        UserError: there is no such engine or file, or it cannot run here.
    """
    if path.is_file() and path.suffix == ".onnx" and not (path.parent / SIDECAR).is_file():
        try:
            engine, reason = open_file(path, runtime, settings or BuildSettings())
        except ValueError as error:
            raise UserError(f"{path}: {' '.join(str(error).split())[:1500]}") from None
        logger.info("runtime %s (%s)", engine.info.runtime, reason)
        return engine
    folder = path.parent if path.is_file() else path
    if not (folder / SIDECAR).is_file():
        inside = sorted(entry.parent.name for entry in folder.glob(f"*/{SIDECAR}"))
        hint = f"; it holds {', '.join(inside)}: give one of them" if inside else "; run 'dvc repro build-trt' first"
        raise UserError(f"{option}{path} is neither an ONNX file nor a folder with an {SIDECAR}{hint}")
    engine = open_folder(folder)
    built = read_info(folder).runtime
    if runtime not in ("auto", built):
        raise UserError(f"{folder} was built for {built}; --runtime {runtime} runs ONNX files only")
    return engine


def class_names(path: Path | None, engine: Engine, *, dataset: Path) -> tuple[str, ...]:
    """Names as the user asks for, as the engine says, or of the prepared dataset if their number fits; else none.

    Args:
        path: a dataset.yaml, or a text file with a name a line; None: not asked for.
        dataset: dataset.yaml of the prepared dataset.

    Raises:
        UserError: `path` does not exist or holds no names, see `names_in_file`.
    """
    count = class_count(engine)
    if path is not None:
        found = names_in_file(path, count)
        if count and len(found) != count:
            logger.warning("--names %s has %d names, the engine %d classes", path, len(found), count)
        return found
    if engine.info.names:
        return engine.info.names
    if dataset.is_file() and count:
        found = names_in_file(dataset)
        if len(found) == count:
            return found
    logger.warning("no class names are known, numbers are written instead; give --names")
    return ()


def class_count(engine: Engine) -> int:
    """Number of classes of an engine; 0 if a list of detections leaves it open."""
    info = engine.info
    if info.interface.nms != "none":
        return info.interface.classes
    if info.names:
        return len(info.names)
    if lists_detections(info):
        return 0
    batch, _, height, width = info.input_shape
    return engine.infer(np.zeros((max(batch, 1), 3, height, width), np.float32))[1].shape[2]
