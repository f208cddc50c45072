"""Time of each convolution in float and in INT8, by the runtime's own counters: the cost of leaving it float."""

from __future__ import annotations

import copy
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from yolov6core.engines.openvino_engine import CONVOLUTIONS, version
from yolov6core.exchange.openvino_module import load_openvino
from yolov6core.export.dialects import write_dialect
from yolov6core.quant.insert import (
    QuantizedModel,
    convolution_names,
    ready_for_export_,
    set_dialect_,
    set_float_layers_,
)

RUNS = 30


@dataclass(frozen=True)
class LayerTimes:
    """Milliseconds on one image.

    Attributes:
        extra: convolution -> time in float minus time in INT8, without conversions around it.
        int8: time of the whole network as it is quantized.
    """

    extra: dict[str, float]
    int8: float


def openvino_layer_times(
    gm: QuantizedModel, *, image_size: tuple[int, int], threads: int = 0, runs: int = RUNS
) -> LayerTimes:
    """Run the network in OpenVINO, once quantized as it is and once float, and compare layer by layer.

    Args:
        gm: calibrated model with two outputs; it does not change.
        image_size: (height, width).
        threads: CPU threads, 0 for all cores.
        runs: timed runs of each network. The shortest time of each layer counts, because interruptions only add time.

    Raises:
        RuntimeMissing: OpenVINO is not installed.
        ValueError: the counters do not list every convolution.
    """
    version()
    names = convolution_names(gm)
    copied = set_dialect_(ready_for_export_(copy.deepcopy(gm)), "openvino")
    shape = (1, 3, *image_size)
    with tempfile.TemporaryDirectory() as folder:
        int8 = _run_timed(copied, Path(folder) / "int8.onnx", shape, threads, runs)
        real = _run_timed(set_float_layers_(copied, names), Path(folder) / "float.onnx", shape, threads, runs)
    if not len(names) == len(int8[0]) == len(real[0]):
        raise ValueError(
            f"OpenVINO counts {len(int8[0])} and {len(real[0])} convolutions, the network has {len(names)}"
        )
    extra = {name: slow - fast for name, slow, fast in zip(names, real[0], int8[0], strict=True)}
    return LayerTimes(extra, int8[1])


def _run_timed(
    gm: QuantizedModel, path: Path, shape: tuple[int, int, int, int], threads: int, runs: int
) -> tuple[list[float], float]:
    """Milliseconds of every convolution, in order of the file, and of the whole network."""
    write_dialect(gm, path, dialect="openvino", input_shape=shape)
    options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "PERF_COUNT": True}
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads
    compiled = load_openvino().Core().compile_model(path, "CPU", options)
    request, images = compiled.create_infer_request(), np.full(shape, 0.5, np.float32)
    times: dict[str, float] = {}
    for run in range(runs + 3):  # the first three warm up
        request.infer([images])
        for entry in request.get_profiling_info() if run >= 3 else ():
            milliseconds = 1000 * entry.real_time.total_seconds()
            times[entry.node_name] = min(milliseconds, times.get(entry.node_name, milliseconds))
    return _by_convolution(path, compiled, times), sum(times.values())


def _by_convolution(path: Path, compiled: Any, times: dict[str, float]) -> list[float]:
    """Times in order of the file's Conv nodes, which the execution graph lists as originals of its own nodes."""
    import onnx

    found: dict[str, float] = {}
    for node in compiled.get_runtime_model().get_ops():
        info = node.get_rt_info()
        if _text(info["layerType"]) in CONVOLUTIONS:
            for original in _text(info["originalLayersNames"]).split(","):
                found[original.removesuffix("/WithoutBiases")] = times.get(node.get_friendly_name(), 0.0)
    order = [node.name for node in onnx.load(path).graph.node if node.op_type == "Conv"]
    return [found[name] for name in order if name in found]


def _text(value: Any) -> str:
    return str(getattr(value, "value", value))
