"""Engines opened by the path that a user gives, and the class names that go with them."""

from __future__ import annotations

from pathlib import Path

from yolov6core.base.errors import UserError, logger
from yolov6core.base.yaml_text import parse_yaml
from yolov6core.engines.registry import open_engine, open_file
from yolov6core.engines.runtime import SIDECAR, BuildSettings, Engine, EngineMismatch, RuntimeMissing, read_info

REBUILD = "rebuild it here with 'dvc repro --force build-trt'"


def open_folder(folder: Path) -> Engine:
    """Open the engine of a folder.

    Raises:
        UserError: it is of another runtime, version or device, or its runtime is missing.
    """
    try:
        return open_engine(folder)
    except EngineMismatch as error:
        raise UserError(f"{folder}: {error}; {REBUILD}") from None
    except RuntimeMissing as error:
        raise UserError(f"{folder}: {error}; choose another engine.runtime, or {REBUILD}") from None


def open_any(path: Path, runtime: str = "auto") -> Engine:
    """Open an engine, or an ONNX file that no engine was built from.

    Args:
        path: folder with an engine, its file, or an ONNX file.
        runtime: key of `registry.FILE_RUNTIMES` for an ONNX file, or `auto`.

    Raises:
        UserError: there is no such engine or file, or it cannot run here.
    """
    if path.is_file() and path.suffix == ".onnx" and not (path.parent / SIDECAR).is_file():
        try:
            engine, reason = open_file(path, runtime, BuildSettings())
        except ValueError as error:
            raise UserError(f"{path}: {error}") from None
        logger.info("runtime %s (%s)", engine.info.runtime, reason)
        return engine
    folder = path.parent if path.is_file() else path
    if not (folder / SIDECAR).is_file():
        inside = sorted(entry.parent.name for entry in folder.glob(f"*/{SIDECAR}"))
        hint = f"; it holds {', '.join(inside)}: give one of them" if inside else "; run 'dvc repro build-trt' first"
        raise UserError(f"--engine {path} is neither an ONNX file nor a folder with an {SIDECAR}{hint}")
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
        UserError: `path` does not exist.
    """
    if path is not None:
        if not path.is_file():
            raise UserError(f"--names {path} does not exist; give a dataset.yaml or a text file with a name a line")
        text = path.read_text(encoding="utf-8")
        found = parse_yaml(text).get("names", []) if path.suffix in (".yaml", ".yml") else text.split("\n")
        found = found.values() if isinstance(found, dict) else found
        return tuple(str(name).strip() for name in found if str(name).strip())
    if engine.info.names:
        return engine.info.names
    shape = engine.info.outputs.get("scores", ())
    if dataset.is_file() and shape:
        found = parse_yaml(dataset.read_text(encoding="utf-8"))["names"]
        if len(found) == shape[-1]:
            return tuple(found)
    logger.warning("no class names are known, numbers are written instead; give --names")
    return ()
