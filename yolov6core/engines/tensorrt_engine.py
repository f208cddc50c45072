"""TensorRT 8 to 11 and TensorRT-RTX behind one adapter.

From version 10 on all take the same files: Q/DQ in a strongly typed network. TensorRT 8 takes files of an earlier form,
and 8 to 10 take calibration caches (`compatibility`, docs/tensorrt.md). Differences are probed, never read from version
numbers, but for those of the parser, which nothing tells.

TensorRT-RTX builds without a GPU (ahead of time), which checks syntax, types and fusion of a file on any machine.
Engines of both run on a GPU only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from yolov6core.engines.cuda_memory import CudaMemory
from yolov6core.engines.onnx_facts import read_facts
from yolov6core.engines.record import Built, record_engine
from yolov6core.engines.runtime import BuildSettings, EngineInfo, RuntimeMissing, feed, finish
from yolov6core.engines.tensorrt_build import Build
from yolov6core.engines.tensorrt_import import cuda_device, import_tensorrt
from yolov6core.engines.tensorrt_plan import open_plan
from yolov6core.engines.tensorrt_run import BoundContext, profile_limits

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
        device = self.device()
        folder.mkdir(parents=True, exist_ok=True)
        plan = Build(self.NAME, facts, settings).run(onnx_path, folder)
        (folder / FILE).write_bytes(plan.data)
        built = Built((self.NAME, self.version(), device), FILE, plan.precision, plan.integer, plan.real)
        return record_engine(folder, onnx_path, facts, settings, built)

    def load(self, folder: Path, info: EngineInfo) -> TensorRtEngine:
        """Open an engine written by `build`. Raises RuntimeMissing without a GPU."""
        cuda_device()
        return TensorRtEngine(self.NAME, folder / info.file, info, CudaMemory())

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
