"""INT8 against float engines of one network, in turns in one process. Weights are random: this is about speed only.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/engine_speed.py --variant yolov6n_v2 --size 640 --threads 2

(The setting keeps torch's waiting threads off the engines' cores.) Prints how many times faster INT8 is: by the medians
of each round, and of these ratios the median, smallest and largest. BF16 and streams are OpenVINO's; `torch` is the
float network in eager mode. `--nncf` adds what NNCF makes of the float file (pip install nncf), by its defaults and
with the prediction layers left float; `all int8` has them in INT8, as `ptq.predictions: int8`. At last the median
milliseconds of each engine, and the bytes of the convolutions' weights, INT8 over float.
"""

from __future__ import annotations

import argparse
import math
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from yolov6core.base.saturation import CpuSums
from yolov6core.engines.compatibility import RUNTIME_DIALECT
from yolov6core.engines.cpu import integer_arithmetic
from yolov6core.engines.latency import Latency, measure
from yolov6core.engines.registry import RUNTIMES, open_engine
from yolov6core.engines.runtime import BuildSettings, Engine
from yolov6core.export.dialects import GRID, slow_in_int8, write_dialect
from yolov6core.models.blocks import deploy_
from yolov6core.models.decoded import DecodedNetwork
from yolov6core.models.detector import build_detector
from yolov6core.models.variants import variant
from yolov6core.quant.calibrate import collect, ranges
from yolov6core.quant.insert import (
    QuantizedModel,
    insert_quantizers,
    ready_for_export_,
    set_dialect_,
    set_float_layers_,
    set_ranges_,
    state_of,
)
from yolov6core.quant.observers import Method

COMPARED = (
    ("openvino int8", "openvino float"),
    ("openvino int8 streams", "openvino float streams"),
    ("openvino int8", "openvino bf16"),
    ("onnxruntime int8", "onnxruntime float"),
    ("openvino int8", "torch float"),
    ("openvino int8", "openvino nncf float predictions"),
    ("openvino all int8", "openvino nncf"),
    ("openvino int8", "openvino nncf"),
)
"""What is measured, against what."""


def networks(
    name: str, size: int, *, classes: int = 80, score: float | None = None, cpu: CpuSums = "exact"
) -> Iterator[tuple[str, DecodedNetwork]]:
    """The float network and its quantized form, calibrated on noise, both decoded.

    Args:
        score: what every anchor says, about.
    """
    torch.manual_seed(0)
    spec = variant(name)
    images = torch.rand(2, 3, size, size)
    detector = build_detector(spec, num_classes=classes).train()
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    if score is not None:
        for layer in detector.head.cls_preds:
            assert isinstance(layer, nn.Conv2d) and layer.bias is not None
            nn.init.constant_(layer.bias, math.log(score / (1 - score)))
    with torch.no_grad():
        detector(images)
    network = deploy_(detector.eval())
    yield "float", DecodedNetwork(network, strides=spec.strides, image_size=(size, size))
    quantized = insert_quantizers(network, cpu=cpu)
    set_ranges_(quantized, ranges(collect(quantized, [images]), Method("max")))
    ready_for_export_(quantized)
    yield "int8", DecodedNetwork(quantized, strides=spec.strides, image_size=(size, size))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="yolov6n_v2")
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--runtimes", nargs="+", default=["openvino", "onnxruntime"])
    parser.add_argument("--short", action="store_true", help="without BF16, streams and torch")
    parser.add_argument("--nncf", action="store_true")
    parser.add_argument("--cpu", choices=("exact", "saturating"), help="see ptq.cpu; default: the CPU at hand")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    image = np.random.default_rng(0).random((1, 3, options.size, options.size), dtype=np.float32)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = dict(networks(options.variant, options.size, cpu=options.cpu or integer_arithmetic().sums))
        files = exported(models, folder, (1, 3, options.size, options.size))
        engines = open_engines(files, folder, options.runtimes, options.threads)
        if options.short:
            engines.pop("openvino bf16", None)
        calls: dict[str, Callable[[], object]] = {
            kind: (lambda engine=engine: engine.infer(image)) for kind, engine in engines.items()
        }
        if "openvino" in options.runtimes and not options.short:
            eager = torch.from_numpy(image)
            calls["torch float"] = torch.inference_mode()(lambda: models["float"](eager))
            for kind in ("openvino float", "openvino int8"):
                engines[kind].stream(image, 1)
                calls[f"{kind} streams"] = lambda engine=engines[kind]: engine.stream(image, 4)
        if options.nncf:
            calls |= library_calls(models["int8"], files["openvino float"], image, options.threads)
        times = measure(calls, rounds=options.rounds, repeats=options.repeats, warmup=2)
        print(f"{options.variant} at {options.size}, batch 1, {options.threads} threads; times faster than:")
        print(f"  {integer_arithmetic().describe()}")
        for fast, slow in COMPARED:
            if slow in times and fast in times:
                report(fast, slow, times)
        for kind, engine in engines.items():
            info = engine.info
            overflowing = f", {info.overflowing_convs} for exact sums only" if "int8" in kind else ""
            integer = f"{info.int8_convs} of {info.convs} convolutions in INT8{overflowing}"
            print(f"{kind}: {times[kind].median_ms:.2f} ms, {integer}")
        ratio = weight_bytes(files["tensorrt int8"]) / weight_bytes(files["openvino float"])
        print(f"bytes of convolution weights, INT8 over float: {ratio:.4f}")


def exported(models: dict[str, DecodedNetwork], folder: Path, shape: tuple[int, int, int, int]) -> dict[str, Path]:
    """'<runtime> <kind>' -> ONNX file in the runtime's dialect."""
    files = {}
    for runtime in ("openvino", "onnxruntime", "tensorrt"):
        for kind, module in models.items():
            dialect = RUNTIME_DIALECT[runtime]
            if isinstance(module.network, QuantizedModel):
                floats = state_of(module.network).predictions | slow_in_int8(module.network, dialect)
                set_float_layers_(set_dialect_(module.network, GRID[dialect]), floats)
            files[f"{runtime} {kind}"] = folder / f"{kind}.{dialect}.onnx"
            write_dialect(module, files[f"{runtime} {kind}"], dialect=dialect, input_shape=shape)
    return files


def open_engines(files: dict[str, Path], folder: Path, runtimes: list[str], threads: int) -> dict[str, Engine]:
    """Engines of the CPU runtimes, and of the float file with what is not INT8 in BF16."""
    engines = {}
    for runtime, kind, precision in (
        ("openvino", "float", "f32"),
        ("openvino", "int8", "f32"),
        ("openvino", "float", "bf16"),
        ("onnxruntime", "float", "f32"),
        ("onnxruntime", "int8", "f32"),
    ):
        if runtime not in runtimes:
            continue
        name = f"{runtime} {'bf16' if precision == 'bf16' else kind}"
        target = folder / name.replace(" ", "_")
        settings = BuildSettings(threads=threads, precision=precision)
        RUNTIMES[runtime].build(files[f"{runtime} {kind}"], target, settings)
        engines[name] = open_engine(target)
    return engines


def library_calls(
    module: DecodedNetwork, path: Path, image: np.ndarray, threads: int
) -> dict[str, Callable[[], object]]:
    """Calls of the float file after NNCF's post-training quantization, and of ours with all layers in INT8."""
    import openvino as ov

    assert isinstance(module.network, QuantizedModel)
    set_float_layers_(set_dialect_(module.network, GRID["openvino"]), [])
    ours = path.with_name("all.openvino.onnx")
    write_dialect(module, ours, dialect="openvino", input_shape=(1, 3, *image.shape[2:]))

    def call(model: ov.Model) -> Callable[[], object]:
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
        }
        request = ov.Core().compile_model(model, "CPU", settings).create_infer_request()
        return lambda: request.infer([image], share_inputs=True)

    return {
        "openvino all int8": call(ov.Core().read_model(ours)),
        "openvino nncf": call(nncf_model(path, [image])),
        "openvino nncf float predictions": call(nncf_model(path, [image], float_predictions=True)),
    }


def nncf_model(path: Path, images: list[np.ndarray], *, float_predictions: bool = False, **options: Any) -> Any:
    """OpenVINO model of a float file after NNCF's post-training quantization on these images [1, 3, H, W].

    Where this CPU's sums saturate, with NNCF's `overflow_fix` for all layers, which takes a bit from every weight.
    """
    import nncf
    import openvino as ov

    model = ov.convert_model(path)
    names = [op.get_friendly_name() for op in model.get_ordered_ops()] if float_predictions else []
    predictions = [name for name in names if re.search(r"(cls|reg)_preds.*WithoutBiases", name)]
    scope = nncf.IgnoredScope(names=predictions)
    if integer_arithmetic().sums == "saturating":
        fix = nncf.OverflowFix.ENABLE
        options["advanced_parameters"] = nncf.AdvancedQuantizationParameters(overflow_fix=fix)
    return nncf.quantize(model, nncf.Dataset(images), subset_size=len(images), ignored_scope=scope, **options)


def report(fast: str, slow: str, times: dict[str, Latency]) -> None:
    """One line: how many times faster, round by round."""
    rounds = zip(times[slow].rounds_ms, times[fast].rounds_ms, strict=True)
    ratios = sorted(a / b for a, b in rounds)
    print(f"  {fast:24s} {slow:32s} {ratios[len(ratios) // 2]:5.2f}  ({ratios[0]:.2f} to {ratios[-1]:.2f})")


def weight_bytes(path: Path) -> int:
    """Bytes of all four-dimensional constants of a file: the kernels of its convolutions."""
    graph = onnx.load(path).graph
    return sum(onnx.numpy_helper.to_array(tensor).nbytes for tensor in graph.initializer if len(tensor.dims) == 4)


if __name__ == "__main__":
    main()
