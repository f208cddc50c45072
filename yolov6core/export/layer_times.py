"""How long each convolution takes in float and in INT8, by the runtime's own counters: what leaving it float costs."""

from __future__ import annotations

import copy
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from yolov6core.engines.openvino_engine import CONVOLUTIONS, version
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
        extra: convolution -> time in float less time in INT8, conversions around it not counted.
        int8: the whole network, all that may be in INT8.
    """

    extra: dict[str, float]
    int8: float


def openvino_layer_times(
    gm: QuantizedModel, *, image_size: tuple[int, int], threads: int = 0, runs: int = RUNS
) -> LayerTimes:
    """Run the network in OpenVINO, once quantized as it is and once float, and compare layer by layer.

    Args:
        gm: calibrated model with two outputs; it is left as it was.
        image_size: (height, width).
        threads: of the CPU, 0 for all cores.
        runs: timed runs of each network. The shortest time of each layer counts: interruptions only ever add.

    Raises:
        RuntimeMissing: OpenVINO is not installed.
        ValueError: the counters do not tell the convolutions apart.
    """
    version()
    names = convolution_names(gm)
    copied = set_dialect_(ready_for_export_(copy.deepcopy(gm)), "openvino")
    shape = (1, 3, *image_size)
    with tempfile.TemporaryDirectory() as folder:
        int8 = _timed(copied, Path(folder) / "int8.onnx", shape, threads, runs)
        real = _timed(set_float_layers_(copied, names), Path(folder) / "float.onnx", shape, threads, runs)
    if not len(names) == len(int8[0]) == len(real[0]):
        raise ValueError(
            f"OpenVINO counts {len(int8[0])} and {len(real[0])} convolutions, the network has {len(names)}"
        )
    extra = {name: slow - fast for name, slow, fast in zip(names, real[0], int8[0], strict=True)}
    return LayerTimes(extra, int8[1])


def _timed(
    gm: QuantizedModel, path: Path, shape: tuple[int, int, int, int], threads: int, runs: int
) -> tuple[list[float], float]:
    """Milliseconds of every convolution, in order of the file, and of everything together."""
    import openvino

    write_dialect(gm, path, dialect="openvino", input_shape=shape)
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "PERF_COUNT": True}
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads
    compiled = openvino.Core().compile_model(path, "CPU", options)
    request, images = compiled.create_infer_request(), np.full(shape, 0.5, np.float32)
    times: dict[str, float] = {}
    for run in range(runs + 3):  # the first ones warm up
        request.infer([images])
        for entry in request.get_profiling_info() if run >= 3 else ():
            taken = 1000 * entry.real_time.total_seconds()
            times[entry.node_name] = min(taken, times.get(entry.node_name, taken))
    return _by_convolution(path, compiled, times), sum(times.values())


def _by_convolution(path: Path, compiled: Any, times: dict[str, float]) -> list[float]:
    """Times in the order of the file's Conv nodes; the execution graph names the nodes that each of its own runs."""
    import onnx

    found: dict[str, float] = {}
    for node in compiled.get_runtime_model().get_ops():
        facts = node.get_rt_info()
        if _text(facts["layerType"]) in CONVOLUTIONS:
            for original in _text(facts["originalLayersNames"]).split(","):
                found[original.removesuffix("/WithoutBiases")] = times.get(node.get_friendly_name(), 0.0)
    order = [node.name for node in onnx.load(path).graph.node if node.op_type == "Conv"]
    return [found[name] for name in order if name in found]


def _text(value: Any) -> str:
    return str(getattr(value, "value", value))
