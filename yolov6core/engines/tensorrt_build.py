"""One build of TensorRT or TensorRT-RTX: an ONNX file becomes the bytes of an engine and a list of its INT8 layers."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yolov6core.engines.onnx_facts import OnnxFacts, file_layers
from yolov6core.engines.runtime import BuildSettings, RuntimeMissing
from yolov6core.engines.tensorrt_calibration import CALIBRATED, float32_bytes, raise_failure
from yolov6core.engines.tensorrt_import import import_tensorrt, load_plugins, process_logger
from yolov6core.engines.tensorrt_layers import EngineLayer, audit, layers_of_json, layers_of_log
from yolov6core.engines.tensorrt_plan import batch_profiles, open_plan
from yolov6core.engines.tensorrt_precision import cache_reader, pin_float_layers
from yolov6core.exchange.calibration_cache import cache_path
from yolov6core.exchange.onnx_notes import INPUT

logger = logging.getLogger(__name__)
TIMING_CACHE = "timing.cache"
IMPLICIT = ("cache", CALIBRATED)
"""Dialects of files without Q/DQ, whose scales TensorRT gets from a calibrator: it calls that implicit quantization."""


@dataclass(frozen=True)
class Plan:
    """A built engine.

    Attributes:
        data: the bytes that a runtime opens.
        precision: of the layers that are not INT8.
        integer, real: convolutions of the file that run in INT8, and the others; both empty if not known.
    """

    data: bytes
    precision: str
    integer: list[str]
    real: list[str]


class Build:
    """One build, from an empty network to the bytes of an engine."""

    def __init__(self, flavour: str, facts: OnnxFacts, settings: BuildSettings, calibrator: Any = None) -> None:
        """Args:
        calibrator: of a float file that TensorRT calibrates itself, see `tensorrt_calibration`.
        """
        self.flavour, self.trt = flavour, import_tensorrt(flavour)
        load_plugins(flavour)
        self.logger = process_logger(flavour)
        self.logger.lines.clear()
        self.logger.errors.clear()
        self.facts, self.settings, self.calibrator = facts, settings, calibrator
        self.builder = self.trt.Builder(self.logger)

    def run(self, onnx_path: Path, folder: Path) -> Plan:
        """Parse, configure, build, and look at the result. `folder` may hold kernel times of an earlier build.

        Raises:
            ValueError: parser or builder refuse the file or the settings, or the calibration fails; the message quotes
                them.
        """
        network = self._parse(onnx_path)
        config = self.builder.create_builder_config()
        self._configure(config)
        layers = file_layers(onnx_path)
        if self.facts.dialect == "cache":
            self.calibrator = cache_reader(self.trt, cache_path(onnx_path))
        if self.calibrator is not None:
            config.int8_calibrator = self.calibrator  # which keeps no reference of its own
        if not self.strongly_typed:
            pinned = layers.float_convolutions if self.facts.dialect == "cache" else ()
            pin_float_layers(self.trt, network, config, convolutions=pinned, decoding=layers.decoding)
        if self.facts.input_shape[0] == -1:
            self._open_batch(config)
        timings = self._timing_cache(config, folder)
        data = self.builder.build_serialized_network(network, config)
        if self.facts.dialect == CALIBRATED:
            raise_failure(self.calibrator)  # before the builder's words: it does not know what went wrong there
        if data is None:
            raise ValueError(f"the builder refuses {onnx_path}: {self._complaints()}")
        if timings is not None:
            (folder / TIMING_CACHE).write_bytes(memoryview(timings.serialize()))
        plan = bytes(data)
        return Plan(plan, self.precision, *audit(self._layers(plan), layers.convolutions))

    @property
    def strongly_typed(self) -> bool:
        """Whether the network takes its types from the file; implicit quantization needs the other kind."""
        return self.facts.dialect not in IMPLICIT and hasattr(self.trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")

    @property
    def precision(self) -> str:
        """Precision of the layers that are not INT8: the file's, or FP16 where TensorRT may choose."""
        return self.facts.precision if self.strongly_typed else "fp16"

    def _configure(self, config: Any) -> None:
        # Only a detailed engine names the data types of each layer. It is set down again where the engine runs.
        config.profiling_verbosity = self.trt.ProfilingVerbosity.DETAILED
        if hasattr(config, "builder_optimization_level"):  # from 8.6 on
            config.builder_optimization_level = self.settings.optimization_level
        if self.settings.workspace_mib:
            config.set_memory_pool_limit(self.trt.MemoryPoolType.WORKSPACE, self.settings.workspace_mib << 20)
        if not self.strongly_typed:
            # Q/DQ or a calibrator says where INT8 is wanted, these flags that INT8 and FP16 are allowed.
            for name in ("INT8", "FP16") if self.facts.quantized else ("FP16",):
                self._set_flag(config, name)
        if self.settings.version_compatible:
            self._set_flag(config, "VERSION_COMPATIBLE")
        if self.settings.hardware_compatibility != "none":
            self._set_hardware(config)
        if self.settings.dla_core is not None:
            self._set_dla(config, self.settings.dla_core)

    def _set_flag(self, config: Any, name: str) -> None:
        flag = getattr(self.trt.BuilderFlag, name, None)
        if flag is None:
            raise ValueError(f"{self.flavour} {self.trt.__version__} has no builder flag {name}")
        config.set_flag(flag)

    def _set_hardware(self, config: Any) -> None:
        wanted = self.settings.hardware_compatibility
        level = getattr(self.trt.HardwareCompatibilityLevel, wanted.upper(), None)
        if level is None:
            raise ValueError(
                f"engine.hardware_compatibility {wanted}: {self.flavour} {self.trt.__version__} does not have it; "
                "choose ampere_plus or none"
            )
        config.hardware_compatibility_level = level

    def _set_dla(self, config: Any, core: int) -> None:
        cores = self.builder.num_DLA_cores
        if core >= cores:
            raise ValueError(f"engine.dla_core is {core}, this device has {cores} DLA cores: set engine.dla_core null")
        if self.facts.quantized and self.facts.dialect not in IMPLICIT:
            raise ValueError(
                "DLA takes INT8 by a calibration cache, this file has Q/DQ: set engine.calibration_cache true "
                "(TensorRT 8 to 10), or engine.dla_core null"
            )
        if self.facts.input_shape[0] == -1:
            raise ValueError(
                "DLA takes batches of one size only, this file has an open batch: export it with export.dynamic_batch "
                "false, or set engine.dla_core null"
            )
        config.default_device_type, config.DLA_core = self.trt.DeviceType.DLA, core
        self._set_flag(config, "GPU_FALLBACK")

    def _parse(self, path: Path) -> Any:
        # Flag numbers differ: STRONGLY_TYPED is 1 in TensorRT 10 and 0 in 11 and RTX. TensorRT 8 parses ONNX only with
        # EXPLICIT_BATCH, which is the default of later versions and is removed in the last ones.
        wanted = "STRONGLY_TYPED" if self.strongly_typed else "EXPLICIT_BATCH"
        flag = getattr(self.trt.NetworkDefinitionCreationFlag, wanted, None)
        network = self.builder.create_network(0 if flag is None else 1 << int(flag))
        parser = self.trt.OnnxParser(network, self.logger)
        calibrated = self.facts.dialect == CALIBRATED
        if not parser.parse(float32_bytes(path) if calibrated else path.read_bytes()):
            errors = [str(parser.get_error(index)) for index in range(parser.num_errors)]
            raise ValueError(f"the parser refuses {path}: {'; '.join(errors) or self._complaints()}")
        self._parser = parser  # weights of the network live in it
        return network

    def _complaints(self) -> str:
        return "; ".join(self.logger.errors[-3:]) or "no reason given"

    def _open_batch(self, config: Any) -> None:
        for batches in batch_profiles(self.flavour, self.settings.max_batch):
            if config.add_optimization_profile(self._profile(batches)) < 0:
                raise ValueError(f"the builder refuses batches of {batches} images: {self._complaints()}")
        if self.calibrator is not None:
            size = self.calibrator.get_batch_size()
            if not config.set_calibration_profile(self._profile((size, size, size))):
                raise ValueError(f"the builder refuses to calibrate on batches of {size} images: {self._complaints()}")

    def _profile(self, batches: tuple[int, int, int]) -> Any:
        """A profile for the fewest, the usual and the most images."""
        profile = self.builder.create_optimization_profile()
        profile.set_shape(INPUT, *((batch, *self.facts.input_shape[1:]) for batch in batches))
        return profile

    def _timing_cache(self, config: Any, folder: Path) -> Any:
        """Reuse measured kernel times, so that the next build chooses the same kernels and gives the same engine.

        Times of another GPU, driver or version are of no use; they are dropped and measured anew.
        """
        if self.flavour != "tensorrt":
            return None  # TensorRT-RTX picks kernels when an engine is first run
        path = folder / TIMING_CACHE
        for stored in (path.read_bytes(),) if path.is_file() else ():
            timings = config.create_timing_cache(stored)
            if timings is not None and config.set_timing_cache(timings, False):
                return timings
            logger.warning("kernel times of another GPU, driver or TensorRT are dropped: %s", path)
        path.unlink(missing_ok=True)
        timings = config.create_timing_cache(b"")
        return timings if timings is not None and config.set_timing_cache(timings, False) else None

    def _layers(self, plan: bytes) -> list[EngineLayer]:
        """The engine's layers: by the inspector, which needs a GPU, or by the builder's log."""
        if self.flavour == "tensorrt":
            try:
                _, engine = open_plan(self.flavour, plan, self.settings)
                text = engine.create_engine_inspector().get_engine_information(self.trt.LayerInformationFormat.JSON)
            except RuntimeMissing:  # a lean or an incomplete installation builds and does not open
                text = ""
            if found := layers_of_json(text):
                return found
        return layers_of_log(self.logger.lines)
