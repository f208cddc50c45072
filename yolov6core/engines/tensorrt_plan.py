"""Built engines of TensorRT: their profiles of batch sizes, and how their bytes are opened."""

from __future__ import annotations

from typing import Any

from yolov6core.engines.runtime import BuildSettings, RuntimeMissing
from yolov6core.engines.tensorrt_import import import_tensorrt, load_plugins, process_logger


def batch_profiles(flavour: str, max_batch: int) -> list[tuple[int, int, int]]:
    """(fewest, tuned for, most) images of each optimization profile of an open batch.

    TensorRT chooses kernels for the middle number. One profile for 1 to 32 images would be slow for one of them.
    TensorRT-RTX chooses them when it runs: a second profile doubles the file (27 to 51 MB) and tells it nothing.
    """
    if flavour != "tensorrt":
        return [(1, 1, max_batch)]
    return [(1, 1, 1), (1, max_batch, max_batch)][: min(max_batch, 2)]


def open_plan(flavour: str, plan: bytes, settings: BuildSettings) -> tuple[Any, Any]:
    """(runtime, engine) of the bytes of an engine. The runtime has to outlive the engine.

    Raises:
        RuntimeMissing: the library refuses them; the message quotes it.
    """
    trt, log = import_tensorrt(flavour), process_logger(flavour)
    load_plugins(flavour)
    runtime = trt.Runtime(log)
    if settings.dla_core is not None:
        runtime.DLA_core = settings.dla_core
    if settings.version_compatible:
        runtime.engine_host_code_allowed = True  # such an engine brings a lean runtime of its own
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise RuntimeMissing(f"{flavour} cannot open the engine ({'; '.join(log.errors[-3:]) or 'no reason given'})")
    return runtime, engine
