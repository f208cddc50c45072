"""`build-trt`: engines of the runtime at hand from the exported files, each with a count of what runs in INT8."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from stages.params import EngineParams
from stages.shared import paths
from stages.shared.start_line import log_start
from yolov6core.base.atomic import replace_folder
from yolov6core.base.errors import UserError, logger
from yolov6core.base.progress import tracked
from yolov6core.data.dataset import DetectionDataset
from yolov6core.data.transforms import network_input
from yolov6core.data.views import image_batches
from yolov6core.engines.compatibility import RUNTIME_DIALECT
from yolov6core.engines.complaints import missing_int8, unsuitable_cpu
from yolov6core.engines.exactness import deviation_from_exact
from yolov6core.engines.onnx_facts import other_integers, slower_than_float
from yolov6core.engines.registry import RUNTIMES, pick_runtime
from yolov6core.engines.runtime import BuildSettings, EngineInfo, read_info, write_info
from yolov6core.engines.tensorrt_build import TIMING_CACHE
from yolov6core.engines.tensorrt_engine import TensorRtRuntime

TIMINGS = paths.RESUME / "build-trt"
"""TensorRT's measured kernel times, kept between runs: without them two builds may pick different kernels."""


def build_trt(engine: EngineParams, *, onnx_folder: Path = paths.ONNX, out: Path = paths.ENGINES) -> None:
    """Write `<kind>/` with the engine and its `engine.json`.

    TensorRT 8 to 10 make the kind `naive` themselves, of the float file and the calibration images.

    Raises:
        UserError: the runtime is not usable here, a file of its dialect is missing, or it refuses one; there are no
            images to calibrate on; or INT8 would be slower than float with `slower_int8: refuse`.
    """
    try:
        runtime, reason = pick_runtime(engine.runtime)
    except ValueError as error:
        raise UserError(f"engine.runtime {engine.runtime}: {error}; see 'python -m stages doctor'") from None
    log_start("build-trt", device=f"{runtime} {RUNTIMES[runtime].version()} on {RUNTIMES[runtime].device()}")
    logger.info("runtime %s (%s)", runtime, reason)
    settings = BuildSettings(
        threads=engine.threads,
        hint=engine.hint,
        precision=engine.precision,
        max_batch=engine.max_batch,
        workspace_mib=engine.workspace_mib,
        optimization_level=engine.optimization_level,
        dla_core=engine.dla_core,
        hardware_compatibility=engine.hardware_compatibility,
        version_compatible=engine.version_compatible,
    )
    kinds = [kind for kind in paths.KINDS if list(onnx_folder.glob(f"{kind}.*.onnx"))]
    if not kinds:
        raise UserError(f"{onnx_folder} holds no exported files: run 'dvc repro export-onnx' first")
    images = _calibration_images(runtime) if "naive" in kinds else None
    with replace_folder(out) as folder:
        for kind in tracked(kinds, "engines", unit="engines"):
            cached = engine.calibration_cache and runtime == "tensorrt" and kind not in ("float", "naive")
            calibrated = images if kind == "naive" else None
            source = _source(onnx_folder, "float" if calibrated else kind, runtime, cached=cached)
            _judge_speed(kind, source, runtime, engine.slower_int8)
            _build(source, folder / kind, runtime, settings, calibrated)
            _log_build(kind, _compared_with_exact(folder / kind, source))
            if text := other_integers(source):
                logger.warning("%s: %s", kind, text)
    logger.info("%d engines -> %s", len(kinds), out)


def _source(onnx_folder: Path, kind: str, runtime: str, *, cached: bool) -> Path:
    dialect = "cache" if cached else RUNTIME_DIALECT[runtime]
    path = onnx_folder / f"{kind}.{dialect}.onnx"
    if not path.is_file():
        raise UserError(f"{path} is missing: {runtime} needs it; add {dialect!r} to export.dialects")
    return path


def _judge_speed(kind: str, source: Path, runtime: str, slower_int8: str) -> None:
    if text := slower_than_float(source, runtime):
        if slower_int8 == "refuse":
            raise UserError(
                f"{source}: {text}; set engine.runtime to openvino, or use the float file; to build it all the same, "
                "set engine.slower_int8 to allow"
            )
        logger.warning("%s: %s", kind, text)


@dataclass(frozen=True)
class _CalibrationImages:
    """The calibration split, as networks see it."""

    dataset: DetectionDataset

    def __len__(self) -> int:
        return len(self.dataset)

    def batches(self, *, image_size: tuple[int, int], shrink: int, batch_size: int) -> Iterator[np.ndarray]:
        loaded = image_batches(self.dataset, image_size=image_size, shrink=shrink, batch_size=batch_size)
        for batch in tracked(loaded, "calibration", total=len(self.dataset), count=len):
            yield batch.contiguous().numpy()


def _calibration_images(runtime: str) -> _CalibrationImages | None:
    """What the runtime calibrates itself on, found before the first build; None where it takes the file of `naive`."""
    library = RUNTIMES[runtime]
    if not isinstance(library, TensorRtRuntime):
        return None
    named = f"{runtime} {library.version()}"
    if not library.calibrates():
        logger.info("naive: %s has no calibration of its own: it gets ONNX Runtime's, the file with Q/DQ", named)
        return None
    try:
        dataset = DetectionDataset(paths.DATASET, "calib")
    except ValueError as error:
        raise UserError(f"naive: {named} calibrates on images: {error}; or do without it: export.naive=false") from None
    logger.info("naive: %s calibrates itself on %d images", named, len(dataset))
    return _CalibrationImages(dataset)


def _build(
    source: Path, folder: Path, runtime: str, settings: BuildSettings, images: _CalibrationImages | None
) -> None:
    kept, used = TIMINGS / runtime / f"{folder.name}.cache", folder / TIMING_CACHE
    folder.mkdir(parents=True)
    if kept.is_file():
        shutil.copyfile(kept, used)
    try:
        library = RUNTIMES[runtime]
        if images is not None and isinstance(library, TensorRtRuntime):
            library.build_calibrated(source, folder, settings, images)
        else:
            library.build(source, folder, settings)
    except ValueError as error:
        hint = "; the kind naive can be left out: export.naive=false" if images else ""
        raise UserError(f"{source}: {error}{hint}") from None
    if used.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(used, kept)


def _compared_with_exact(folder: Path, source: Path) -> EngineInfo:
    """Store in the sidecar how far the engine is from exact arithmetic on the images of the export.

    An engine that is too far off is kept, with a loud warning: the trainings before it are not to be lost for that, and
    on another CPU the same file may be right.
    """
    info, stored = read_info(folder), source.with_name(paths.CHECK_IMAGES)
    told = unsuitable_cpu(info)
    batches = _stored_images(stored) if stored.is_file() and info.wanted_int8 else []
    if batches and (deviation := deviation_from_exact(folder, batches)) is not None:
        info = replace(info, deviation=round(deviation, 5))
        write_info(folder, info)
        report = json.loads(source.with_name(paths.CHECK_REPORT).read_text(encoding="utf-8"))
        allowed = report[source.name]["allowed_l2"]
        if info.deviation > allowed:
            told = told or f"{info.runtime} {info.version} computes the file wrongly: try another engine.runtime"
            told += f"; outputs are {info.deviation:.3g} from exact arithmetic, {allowed:.3g} would be usual"
    if told:
        logger.warning("%s: %s", folder.name, told)
    return info


def _stored_images(path: Path) -> list[np.ndarray]:
    pixels = torch.from_numpy(np.load(path)["images"])  # uint8 [batches, B, 3, H, W]
    return [network_input(batch, memory_format=torch.contiguous_format).numpy() for batch in pixels]


def _log_build(kind: str, info: EngineInfo) -> None:
    logger.info("%-8s %s", kind, info.describe())
    if text := missing_int8(info):
        logger.warning("%s: %s", kind, text)
