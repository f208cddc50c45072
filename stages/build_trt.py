"""`build-trt`: engines of the runtime at hand from the exported files, each with a count of what runs in INT8."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from stages._params import DEFAULT_PARAMS, Bounds, ParamsFile, read_params
from stages._report import stage_errors
from yolov6core.atomic import replace_folder
from yolov6core.errors import UserError, logger

if TYPE_CHECKING:
    from yolov6core.engines.runtime import BuildSettings, EngineInfo

ONNX = Path("artifacts/onnx")
OUT = Path("artifacts/engines")
CHECK_IMAGES = "check_images.npz"
"""Beside the files: the images that the export compared them on."""
VARIANTS = ("float", "ptq", "partial", "qat")
TIMINGS = Path(".ckpt/build-trt")
"""TensorRT's measured kernel times, kept between runs: without them two builds may pick different kernels."""


@dataclass(frozen=True)
class EngineParams:
    """Section `engine`: which runtime, and how its engines run."""

    runtime: Literal["auto", "tensorrt", "tensorrt_rtx", "openvino", "onnxruntime"]
    threads: Annotated[int, Bounds(0, 256)]
    hint: Literal["latency", "throughput"]
    precision: Literal["f32", "bf16", "f16"]
    max_batch: Annotated[int, Bounds(1, 4096)]
    workspace_mib: Annotated[int, Bounds(0, None)]
    optimization_level: Annotated[int, Bounds(0, 5)]
    calibration_cache: bool

    def __post_init__(self) -> None:
        if self.calibration_cache and self.runtime not in ("auto", "tensorrt"):
            raise ValueError(f"calibration_cache is for runtime tensorrt, runtime is {self.runtime}")


def build_trt_cli(params: ParamsFile = DEFAULT_PARAMS) -> None:
    """Build engines of all exported variants: artifacts/engines."""
    (engine,) = read_params(params, engine=EngineParams)
    with stage_errors():
        build_trt(engine)


def build_trt(engine: EngineParams, *, onnx_folder: Path = ONNX, out: Path = OUT) -> None:
    """Write `<variant>/` with the engine and its `engine.json`.

    Raises:
        UserError: the runtime is not usable here, a file of its dialect is missing, or it refuses one.
    """
    from yolov6core.engines.registry import pick_runtime
    from yolov6core.engines.runtime import BuildSettings

    try:
        runtime, reason = pick_runtime(engine.runtime)
    except ValueError as error:
        raise UserError(f"engine.runtime {engine.runtime}: {error}; see 'python -m stages doctor'") from None
    logger.info("runtime %s (%s)", runtime, reason)
    settings = BuildSettings(
        threads=engine.threads,
        hint=engine.hint,
        precision=engine.precision,
        max_batch=engine.max_batch,
        workspace_mib=engine.workspace_mib,
        optimization_level=engine.optimization_level,
    )
    variants = [name for name in VARIANTS if list(onnx_folder.glob(f"{name}.*.onnx"))]
    if not variants:
        raise UserError(f"{onnx_folder} holds no exported files: run 'dvc repro export-onnx' first")
    with replace_folder(out) as folder:
        for variant in variants:
            cached = engine.calibration_cache and runtime == "tensorrt" and variant != "float"
            source = _source(onnx_folder, variant, runtime, cached=cached)
            _build(source, folder / variant, runtime, settings)
            info = _judge(folder / variant, source)
            _report(variant, info)
    logger.info("%d engines -> %s", len(variants), out)


def _source(onnx_folder: Path, variant: str, runtime: str, *, cached: bool) -> Path:
    from yolov6core.engines.compatibility import RUNTIME_DIALECT

    dialect = "cache" if cached else RUNTIME_DIALECT[runtime]
    path = onnx_folder / f"{variant}.{dialect}.onnx"
    if not path.is_file():
        raise UserError(f"{path} is missing: {runtime} needs it; add {dialect!r} to export.dialects")
    return path


def _build(source: Path, folder: Path, runtime: str, settings: BuildSettings) -> None:
    from yolov6core.engines.registry import RUNTIMES
    from yolov6core.engines.tensorrt_engine import TIMING_CACHE

    kept, used = TIMINGS / runtime / f"{folder.name}.cache", folder / TIMING_CACHE
    folder.mkdir(parents=True)
    if kept.is_file():
        shutil.copyfile(kept, used)
    try:
        RUNTIMES[runtime].build(source, folder, settings)
    except ValueError as error:
        raise UserError(f"{source}: {error}") from None
    if used.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(used, kept)


def _judge(folder: Path, source: Path) -> EngineInfo:
    """Compare an engine with exact arithmetic on the images of the export, and store what it is apart in its sidecar.

    Only runtimes of the CPU are compared, and without suppression in the graph, where lists of detections change length
    and order. An engine that is too far off is told loudly and kept: the trainings before it are not to be lost for
    that, and on another CPU the same file may be right.
    """
    import numpy as np

    from yolov6core.engines.compare import compare_outputs
    from yolov6core.engines.cpu import warning
    from yolov6core.engines.registry import open_engine, open_exact
    from yolov6core.engines.runtime import infer_any, read_info, write_info

    info, stored = read_info(folder), source.with_name(CHECK_IMAGES)
    told = warning(info)
    if info.device == "CPU" and info.wanted_int8 and info.interface.nms == "none" and stored.is_file():
        engines = open_engine(folder), open_exact(folder)
        batches = np.load(stored)["images"].astype(np.float32) / np.float32(255)
        found, wanted = ([infer_any(engine, images) for images in batches] for engine in engines)
        info = replace(info, deviation=round(compare_outputs(found, wanted)["relative_l2"], 5))
        write_info(folder, info)
        allowed = json.loads(source.with_name("check.json").read_text(encoding="utf-8"))[source.name]["allowed_l2"]
        if info.deviation > allowed:
            told = told or f"{info.runtime} {info.version} computes the file wrongly: try another engine.runtime"
            told += f"; outputs are {info.deviation:.3g} from exact arithmetic, {allowed:.3g} would be usual"
    if told:
        logger.warning("%s: %s", folder.name, told)
    return info


def _report(variant: str, info: EngineInfo) -> None:
    logger.info("%-8s %s; built in %.1f s", variant, info.describe(), info.build_s)
    if 0 <= info.int8_convs < info.wanted_int8:
        logger.warning(
            "%s: FLOAT LAYERS THAT SHOULD BE INT8: the file quantizes %d convolutions, %s runs only %d of them "
            "in INT8; float: %s",
            variant,
            info.wanted_int8,
            info.runtime,
            info.int8_convs,
            ", ".join(info.float_layers),
        )
