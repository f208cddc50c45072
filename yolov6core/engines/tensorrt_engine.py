"""TensorRT 8 to 11 and TensorRT-RTX behind one adapter: all take explicit Q/DQ, most in a strongly typed network.

TensorRT-RTX builds without a GPU (ahead of time), which checks syntax, types and fusion of a file on any machine.
Engines of both run on a GPU only. Differences between versions are probed, never read from version numbers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from yolov6core.engines.onnx_facts import OnnxFacts, read_facts
from yolov6core.engines.record import Built, record_engine
from yolov6core.engines.runtime import (
    BuildSettings,
    EngineInfo,
    RuntimeMissing,
    feed,
    finish,
)
from yolov6core.engines.tensorrt_import import cuda_device, import_tensorrt, process_logger
from yolov6core.exchange.calibration_cache import read_cache, write_cache
from yolov6core.exchange.onnx_notes import INPUT

FILE = "model.engine"
TIMING_CACHE = "timing.cache"
LAYER = re.compile(r"^Name: (?P<name>.+?), LayerType: (?P<type>\w+), Inputs: \[(?P<rest>.*)$")
DATATYPE = re.compile(r"Datatype: (?P<type>[^,}\]]+)")


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
        """Parse a file, build and write the engine, and read its INT8 convolutions from the builder's log.

        Raises:
            ValueError: the file does not fit, or parser or builder refuse it; the message quotes them.
            RuntimeMissing: not installed; for TensorRT itself also where there is no GPU.
        """
        facts = read_facts(onnx_path, self.NAME, version=self.version())
        device = self.device()
        folder.mkdir(parents=True, exist_ok=True)
        plan = _Build(self.NAME, facts, settings).run(onnx_path, folder)
        (folder / FILE).write_bytes(plan)
        integer, real = audit(process_logger(self.NAME).lines)
        built = Built((self.NAME, self.version(), device), FILE, facts.precision, integer, real)
        return record_engine(folder, onnx_path, facts, settings, built)

    def load(self, folder: Path, info: EngineInfo) -> TensorRtEngine:
        """Open an engine written by `build`. Raises RuntimeMissing without a GPU."""
        cuda_device()
        return TensorRtEngine(self.NAME, folder / info.file, info)

    def load_exact(self, folder: Path, info: EngineInfo) -> None:
        """None: GPUs add 8-bit products in 32 bits."""


class _Build:
    """One build, from an empty network to the bytes of a plan."""

    def __init__(self, flavour: str, facts: OnnxFacts, settings: BuildSettings) -> None:
        self.flavour, self.trt = flavour, import_tensorrt(flavour)
        self.logger = process_logger(flavour)
        self.logger.lines.clear()
        self.logger.errors.clear()
        self.facts, self.settings = facts, settings
        self.builder = self.trt.Builder(self.logger)

    def run(self, onnx_path: Path, folder: Path) -> bytes:
        network = self._parse(onnx_path)
        config = self.builder.create_builder_config()
        self._configure(config)
        if self.facts.dialect == "cache":
            self._calibrate(config, onnx_path)
        if self.facts.input_shape[0] == -1:
            self._open_batch(config)
        timings = self._timing_cache(config, folder)
        plan = self.builder.build_serialized_network(network, config)
        if plan is None:
            raise ValueError(f"the builder refuses {onnx_path}: {self._complaints()}")
        if timings is not None:
            (folder / TIMING_CACHE).write_bytes(memoryview(timings.serialize()))
        return bytes(plan)

    def _configure(self, config: Any) -> None:
        # Only the detailed log names the data types of each layer.
        config.profiling_verbosity = self.trt.ProfilingVerbosity.DETAILED
        if hasattr(config, "builder_optimization_level"):  # from 8.6 on
            config.builder_optimization_level = self.settings.optimization_level
        if self.settings.workspace_mib:
            config.set_memory_pool_limit(self.trt.MemoryPoolType.WORKSPACE, self.settings.workspace_mib << 20)
        if not self._strongly_typed() and self.facts.dialect != "cache":
            # TensorRT 8 and 9.0: Q/DQ says where INT8 is wanted, these flags that INT8 and FP16 are allowed.
            for flag in ("INT8", "FP16") if self.facts.quantized else ("FP16",):
                config.set_flag(getattr(self.trt.BuilderFlag, flag))

    def _strongly_typed(self) -> bool:
        """Whether the network takes its types from the file; a calibration cache needs the other kind."""
        return self.facts.dialect != "cache" and hasattr(self.trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")

    def _parse(self, path: Path) -> Any:
        # Flag numbers differ: STRONGLY_TYPED is 1 in TensorRT 10 and 0 in 11 and RTX. TensorRT 8 parses ONNX only with
        # EXPLICIT_BATCH, which is the default of later versions and is removed in the last ones.
        wanted = "STRONGLY_TYPED" if self._strongly_typed() else "EXPLICIT_BATCH"
        flag = getattr(self.trt.NetworkDefinitionCreationFlag, wanted, None)
        network = self.builder.create_network(0 if flag is None else 1 << int(flag))
        parser = self.trt.OnnxParser(network, self.logger)
        if not parser.parse(path.read_bytes()):
            errors = [str(parser.get_error(index)) for index in range(parser.num_errors)]
            raise ValueError(f"the parser refuses {path}: {'; '.join(errors) or self._complaints()}")
        self._parser = parser  # weights of the network live in it
        return network

    def _complaints(self) -> str:
        return "; ".join(self.logger.errors[-3:]) or "no reason given"

    def _open_batch(self, config: Any) -> None:
        profile = self.builder.create_optimization_profile()
        shapes = [(batch, *self.facts.input_shape[1:]) for batch in (1, 1, self.settings.max_batch)]
        profile.set_shape(INPUT, *shapes)
        config.add_optimization_profile(profile)

    def _timing_cache(self, config: Any, folder: Path) -> Any:
        """Reuse measured kernel times, so that the next build chooses the same kernels and gives the same engine."""
        if self.flavour != "tensorrt":
            return None  # TensorRT-RTX picks kernels when an engine is first run
        path = folder / TIMING_CACHE
        timings = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
        return timings if timings is not None and config.set_timing_cache(timings, False) else None

    def _calibrate(self, config: Any, onnx_path: Path) -> None:
        trt = self.trt
        scales = read_cache(onnx_path.with_suffix(".cache").read_text(encoding="utf-8"))
        text = write_cache(scales, version=cache_version(trt.__version__)).encode()

        class Reader(trt.IInt8EntropyCalibrator2):
            def get_batch_size(self) -> int:
                return 1

            def get_batch(self, names: list[str]) -> None:
                return None  # everything is in the cache

            def read_calibration_cache(self) -> bytes:
                return text

            def write_calibration_cache(self, cache: bytes) -> None:
                return None

        self._reader = Reader()  # the config keeps no reference of its own
        config.int8_calibrator = self._reader
        config.set_flag(trt.BuilderFlag.INT8)
        config.set_flag(trt.BuilderFlag.FP16)


def cache_version(version: str) -> str:
    """Version as the header of a calibration cache writes it: '8.6.1' -> '8601', '10.3.0' -> '100300'."""
    major, minor, patch = (int(part) for part in version.split(".")[:3])
    return str(major * (10000 if major >= 10 else 1000) + minor * 100 + patch)


def audit(lines: list[str]) -> tuple[list[str], list[str]]:
    """Names of (integer, float) convolutions in the layer list that the builder's verbose log ends with."""
    integer, real = [], []
    for line in "\n".join(lines).splitlines():
        layer = LAYER.match(line)
        if layer is None or not re.search("conv|correlation", layer["type"], re.IGNORECASE):
            continue
        datatype = DATATYPE.search(layer["rest"])  # of the first input, the data
        found = integer if datatype is not None and "int8" in datatype["type"].lower() else real
        found.append(layer["name"])
    return integer, real


class TensorRtEngine:
    """An execution context and its stream. Needs a GPU; buffers are torch tensors."""

    def __init__(self, flavour: str, path: Path, info: EngineInfo) -> None:
        self._trt = trt = import_tensorrt(flavour)
        self.info = info
        self._runtime = trt.Runtime(process_logger(flavour))
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise RuntimeMissing(f"{path} cannot be opened on {cuda_device()}: build it on this machine")
        self._context = self._engine.create_execution_context()
        self._stream = torch.cuda.Stream()

    def infer(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `runtime.Engine`. Includes the copies to and from the GPU."""
        with torch.cuda.stream(self._stream):
            data = torch.from_numpy(feed(images, self.info)).cuda(non_blocking=True)
            outputs = self._bind(data)
            self._enqueue()
            found = {name: output.cpu().numpy() for name, output in outputs.items()}
        self._stream.synchronize()
        return finish({name: _float32(value) for name, value in found.items()}, self.info)

    def stream(self, images: np.ndarray, count: int) -> None:
        """See `runtime.Engine`: calls queue up on the GPU, so it never waits for the CPU; images are copied once."""
        with torch.cuda.stream(self._stream):
            data = torch.from_numpy(feed(images, self.info)).cuda(non_blocking=True)
            outputs = self._bind(data)
            for _ in range(count):
                self._enqueue()
        self._stream.synchronize()
        del outputs  # the GPU wrote into them until now

    def _bind(self, data: Any) -> dict[str, Any]:
        """Give the context the addresses of input and outputs; returns the new outputs by name."""
        trt = self._trt
        kinds = {trt.float32: torch.float32, trt.float16: torch.float16, trt.int32: torch.int32}
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        outputs = {}
        for name in names:
            if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
                self._context.set_input_shape(name, tuple(data.shape))
                self._context.set_tensor_address(name, data.data_ptr())
        for name in names:
            if self._engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT:
                kind = kinds[self._engine.get_tensor_dtype(name)]
                outputs[name] = torch.empty(tuple(self._context.get_tensor_shape(name)), device="cuda", dtype=kind)
                self._context.set_tensor_address(name, outputs[name].data_ptr())
        return outputs

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._stream.cuda_stream):
            raise RuntimeError("TensorRT could not run the engine; its log says why")


def _float32(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32) if values.dtype == np.float16 else values
