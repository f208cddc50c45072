"""TensorRT 8 to 11 and TensorRT-RTX behind one adapter.

From version 10 on all take the same files: Q/DQ in a strongly typed network. TensorRT 8 takes files of an earlier form,
and 8 to 10 take calibration caches (`compatibility`, docs/tensorrt.md). Differences are probed, never read from version
numbers, but for those of the parser, which nothing tells.

TensorRT-RTX builds without a GPU (ahead of time), which checks syntax, types and fusion of a file on any machine.
Engines of both run on a GPU only.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from yolov6core.engines.cuda_memory import CudaMemory
from yolov6core.engines.onnx_facts import OnnxFacts, read_facts
from yolov6core.engines.record import Built, record_engine
from yolov6core.engines.runtime import BuildSettings, EngineInfo, RuntimeMissing, feed, finish
from yolov6core.engines.tensorrt_build import Build, Plan
from yolov6core.engines.tensorrt_calibration import (
    SCALES,
    CalibrationImages,
    calibrated_facts,
    calibrates,
    calibrator_of,
    scales_of,
)
from yolov6core.engines.tensorrt_import import cuda_device, import_tensorrt
from yolov6core.engines.tensorrt_plan import open_plan
from yolov6core.engines.tensorrt_run import BoundContext, profile_limits

logger = logging.getLogger(__name__)
FILE = "model.engine"


@dataclass(frozen=True)
class TensorRtRuntime:
    """Builds and runs engines; `NAME` is 'tensorrt' or 'tensorrt_rtx'."""

    NAME: str

    def version(self) -> str:
        """Version of the library. Raises RuntimeMissing."""
        return import_tensorrt(self.NAME).__version__

    def device(self) -> str:
        """The GPU's name; TensorRT-RTX engines are not bound to one."""
        return cuda_device() if self.NAME == "tensorrt" else "NVIDIA GPU"

    def build(self, onnx_path: Path, folder: Path, settings: BuildSettings) -> EngineInfo:
        """Parse a file, build and write the engine, and find its INT8 convolutions.

        Raises:
            ValueError: the file does not fit, or parser or builder refuse it; the message quotes them.
            RuntimeMissing: not installed; for TensorRT itself also where there is no GPU.
        """
        facts = read_facts(onnx_path, self.NAME, version=self.version())
        self.device()
        folder.mkdir(parents=True, exist_ok=True)
        plan = Build(self.NAME, facts, settings).run(onnx_path, folder)
        return self._record(plan, onnx_path, folder, facts, settings)

    def calibrates(self) -> bool:
        """Whether `build_calibrated` is possible: TensorRT 8 to 10 have a calibrator. Raises RuntimeMissing."""
        return calibrates(self.NAME)

    def build_calibrated(
        self, onnx_path: Path, folder: Path, settings: BuildSettings, images: CalibrationImages
    ) -> EngineInfo:
        """Build an INT8 engine of a float file whose scales TensorRT finds itself, on images.

        TensorRT chooses by speed which convolutions run in INT8; the sidecar counts those as wanted. Its calibration
        cache is written beside the engine.

        Raises: see `build`; ValueError also where an image cannot be read, or not be copied to the GPU.
        """
        self.device()
        facts = calibrated_facts(read_facts(onnx_path, self.NAME, version=self.version()))
        folder.mkdir(parents=True, exist_ok=True)
        calibrator = calibrator_of(self.NAME, facts, images, CudaMemory())
        plan = Build(self.NAME, facts, settings, calibrator).run(onnx_path, folder)
        (folder / SCALES).write_bytes(scales_of(calibrator))
        if plan.integer or plan.real:
            facts = replace(facts, quantized=len(plan.integer))
        if plan.real and not plan.integer:
            logger.warning("%s: TensorRT has calibrated it and runs nothing in INT8: float was faster here", onnx_path)
        return self._record(plan, onnx_path, folder, facts, settings)

    def load(self, folder: Path, info: EngineInfo) -> TensorRtEngine:
        """Open an engine written by `build`. Raises RuntimeMissing without a GPU."""
        cuda_device()
        return TensorRtEngine(self.NAME, folder / info.file, info, CudaMemory())

    def _record(
        self, plan: Plan, onnx_path: Path, folder: Path, facts: OnnxFacts, settings: BuildSettings
    ) -> EngineInfo:
        (folder / FILE).write_bytes(plan.data)
        by = (self.NAME, self.version(), self.device())
        built = Built(by, FILE, plan.precision, plan.integer, plan.real)
        return record_engine(folder, onnx_path, facts, settings, built)

    def load_exact(self, folder: Path, info: EngineInfo) -> None:
        """None: GPUs add 8-bit products in 32 bits."""


class TensorRtEngine:
    """An engine with a context for each of its profiles of batch sizes."""

    def __init__(self, flavour: str, path: Path, info: EngineInfo, memory: CudaMemory) -> None:
        """Raises RuntimeMissing: the library cannot open the file, which belongs to another GPU or version."""
        self.info, self._trt, self._memory = info, import_tensorrt(flavour), memory
        try:
            self._runtime, self._engine = open_plan(flavour, path.read_bytes(), info.settings)
        except RuntimeMissing as error:
            raise RuntimeMissing(f"{path}: {error}; build it on the machine that runs it") from None
        batch = info.input_shape[0]
        self._limits = [(batch, batch)] if batch != -1 else profile_limits(self._trt, self._engine)
        self._contexts: dict[int, BoundContext] = {}

    def infer(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `runtime.Engine`. Includes the copies to and from the GPU."""
        data = feed(images, self.info)
        context = self._context(data)
        context.upload(data)
        context.run()
        return finish(context.download(), self.info)

    def stream(self, images: np.ndarray, count: int) -> None:
        """See `runtime.Engine`: calls queue up on the GPU, so it never waits for the CPU; images are copied once."""
        data = feed(images, self.info)
        context = self._context(data)
        context.upload(data)
        for _ in range(count):
            context.run()
        self._memory.synchronize()

    def compute_ms(self, images: np.ndarray, count: int) -> list[float]:
        """GPU milliseconds of `count` runs by CUDA events, without copies and without Python's part."""
        data = feed(images, self.info)
        context, memory = self._context(data), self._memory
        context.upload(data)
        context.run()  # warms up
        times = []
        for _ in range(count):
            start = memory.mark()
            context.run()
            end = memory.mark()
            memory.synchronize()
            times.append(memory.elapsed_ms(start, end))
        return times

    def _context(self, data: np.ndarray) -> BoundContext:
        """The context for a batch, of the profile whose kernels were chosen for it. Raises ValueError: too large."""
        images = len(data)
        fits = [index for index, (low, high) in enumerate(self._limits) if low <= images <= high]
        if not fits:
            most = max(high for _, high in self._limits)
            raise ValueError(
                f"{images} images at once are too many for this engine, which takes up to {most}: raise "
                "engine.max_batch and build it again"
            )
        profile = fits[0]
        if profile not in self._contexts:
            self._contexts[profile] = BoundContext(self._trt, self._engine, self._memory, profile)
        context = self._contexts[profile]
        context.bind(data.shape)
        return context
