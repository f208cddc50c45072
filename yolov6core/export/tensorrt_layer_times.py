"""Time of each convolution in half precision and in INT8 by TensorRT's profiler: the cost of leaving it float on a GPU.

Written against the Python API of TensorRT 8.6 to 11; it has not been run, since no GPU was at hand.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from yolov6core.engines.runtime import BuildSettings, RuntimeMissing
from yolov6core.engines.tensorrt_engine import FILE, TensorRtRuntime
from yolov6core.engines.tensorrt_import import cuda_device, import_tensorrt, process_logger
from yolov6core.export.dialects import write_dialect
from yolov6core.export.layer_times import RUNS, LayerTimes
from yolov6core.quant.insert import (
    QuantizedModel,
    convolution_names,
    ready_for_export_,
    set_dialect_,
    set_float_layers_,
)

NAME = "tensorrt"
OPSET = {True: 19, False: 17}
"""By strong typing, which TensorRT 8 lacks: it reads opset 17 at most, and takes FP16 from a flag of the build."""


def tensorrt_layer_times(gm: QuantizedModel, *, image_size: tuple[int, int], runs: int = RUNS) -> LayerTimes:
    """Run the network in TensorRT, once quantized as it is and once in half precision, and compare layer by layer.

    Args:
        gm: calibrated model with two outputs; it does not change.
        image_size: (height, width).
        runs: timed runs of each network; the shortest time of each layer counts.

    Raises:
        RuntimeMissing: TensorRT is not installed, or there is no GPU.
        ValueError: TensorRT refuses a file, or its profile does not list every convolution.
    """
    cuda_device()
    trt = import_tensorrt(NAME)
    names = convolution_names(gm)
    copied = set_dialect_(ready_for_export_(copy.deepcopy(gm).cpu()), "trt")
    shape = (1, 3, *image_size)
    with tempfile.TemporaryDirectory() as folder:
        int8 = _run_timed(trt, copied, Path(folder) / "int8", shape, runs)
        real = _run_timed(trt, set_float_layers_(copied, names), Path(folder) / "float", shape, runs)
    extra = {name: slow - fast for name, slow, fast in zip(names, real[0], int8[0], strict=True)}
    return LayerTimes(extra, int8[1])


def _run_timed(
    trt: Any, gm: QuantizedModel, folder: Path, shape: tuple[int, int, int, int], runs: int
) -> tuple[list[float], float]:
    """Milliseconds of every convolution, in order of the file, and of the whole network."""
    typed = hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
    path = folder / "network.onnx"
    folder.mkdir()
    write_dialect(gm, path, dialect="trt", input_shape=shape, opset=OPSET[typed], fp16=typed)
    TensorRtRuntime(NAME).build(path, folder, BuildSettings())
    times = _profiled(trt, (folder / FILE).read_bytes(), shape, runs)
    return convolution_times(_convolutions(path), times), sum(times.values())


def _profiled(trt: Any, plan: bytes, shape: tuple[int, int, int, int], runs: int) -> dict[str, float]:
    """Layer of an engine -> shortest milliseconds."""
    times: dict[str, float] = {}

    class Shortest(trt.IProfiler):
        def report_layer_time(self, layer_name: str, ms: float) -> None:
            times[layer_name] = min(ms, times.get(layer_name, ms))

    runtime = trt.Runtime(process_logger(NAME))  # engines need it for as long as they live
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise RuntimeMissing("TensorRT cannot open the engine that it has just built; its log says why")
    context, profiler, stream = engine.create_execution_context(), Shortest(), torch.cuda.Stream()
    kinds = {trt.float32: torch.float32, trt.float16: torch.float16}
    tensors = []
    for name in (engine.get_tensor_name(index) for index in range(engine.num_io_tensors)):
        size = shape if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT else context.get_tensor_shape(name)
        tensors.append(torch.full(tuple(size), 0.5, device="cuda", dtype=kinds[engine.get_tensor_dtype(name)]))
        context.set_tensor_address(name, tensors[-1].data_ptr())
    for run in range(runs + 3):  # the first three warm up
        if run == 3:
            context.profiler = profiler  # its presence makes each run wait for its end
        if not context.execute_async_v3(stream.cuda_stream):
            raise ValueError("TensorRT could not run the engine; its log says why")
        stream.synchronize()
    return times


def _convolutions(path: Path) -> list[str]:
    import onnx

    return [node.name for node in onnx.load(path).graph.node if node.op_type == "Conv"]


def convolution_times(convolutions: Sequence[str], times: Mapping[str, float]) -> list[float]:
    """Time of every convolution of a file, in its order, from times of an engine's layers.

    TensorRT names a layer after the nodes in it, as `a/Conv + a/Relu`; convolutions that run as one, as
    `a/Conv || b/Conv`, share its time in equal parts.

    Raises:
        ValueError: a convolution is in no layer.
    """
    wanted, found = set(convolutions), dict[str, float]()
    for layer, milliseconds in times.items():
        parts = layer.replace("||", " ").replace("+", " ").replace(",", " ").replace("[", " ").replace("]", " ")
        inside = wanted.intersection(parts.split())
        for name in inside:
            found[name] = found.get(name, 0.0) + milliseconds / len(inside)
    if missing := [name for name in convolutions if name not in found]:
        raise ValueError(
            f"TensorRT's profile lists {len(found)} of {len(wanted)} convolutions, {missing[0]} is missing; count "
            "multiply-adds with sensitivity.cost macs"
        )
    return [found[name] for name in convolutions]
