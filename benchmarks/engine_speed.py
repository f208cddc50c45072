"""INT8 against FP32 engines of one network, in turns in one process. Weights are random: this is about speed only.

    python benchmarks/engine_speed.py --variant yolov6n_v2 --size 640 --threads 2

Prints, for every runtime that is installed, the median of per-round ratios FP32 / INT8 with their spread.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from yolov6core.engines.dialects import GRID, RUNTIME_DIALECT, write_dialect
from yolov6core.engines.latency import measure
from yolov6core.engines.registry import RUNTIMES, open_engine
from yolov6core.engines.runtime import BuildSettings
from yolov6core.models.blocks import deploy_
from yolov6core.models.detector import build_detector
from yolov6core.models.head import decode
from yolov6core.models.variants import variant
from yolov6core.quant.calibrate import collect, ranges
from yolov6core.quant.insert import insert_quantizers, ready_for_export_, set_dialect_, set_ranges_
from yolov6core.quant.observers import Method


class Decoded(nn.Module):
    """A network with the decoding of boxes behind it."""

    def __init__(self, network: nn.Module, size: int, strides: tuple[int, ...]) -> None:
        super().__init__()
        self.network, self.size, self.strides = network, size, strides

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return decode(*self.network(images), image_size=(self.size, self.size), strides=self.strides)


def networks(name: str, size: int, *, classes: int = 80, score: float | None = None) -> Iterator[tuple[str, nn.Module]]:
    """The float network and its quantized form, calibrated on noise; `score` is what every anchor says, about."""
    torch.manual_seed(0)
    spec = variant(name)
    images = torch.rand(2, 3, size, size)
    detector = build_detector(spec, num_classes=classes).train()
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    if score is not None:
        for layer in detector.head.cls_preds:
            nn.init.constant_(layer.bias, math.log(score / (1 - score)))
    with torch.no_grad():
        detector(images)
    network = deploy_(detector.eval())
    yield "float", Decoded(network, size, spec.strides)
    quantized = insert_quantizers(network)
    set_ranges_(quantized, ranges(collect(quantized, [images]), Method("max")))
    yield "int8", Decoded(ready_for_export_(quantized), size, spec.strides)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="yolov6n_v2")
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)  # torch's waiting threads would take the engines' cores
    models = dict(networks(options.variant, options.size))
    image = np.random.default_rng(0).random((1, 3, options.size, options.size), dtype=np.float32)
    settings = BuildSettings(threads=options.threads)
    with tempfile.TemporaryDirectory() as folder:
        for runtime in ("openvino", "onnxruntime"):
            engines = {}
            for kind, module in models.items():
                dialect = RUNTIME_DIALECT[runtime]
                if kind == "int8":
                    set_dialect_(module.network, GRID[dialect])
                source = Path(folder) / f"{kind}.{dialect}.onnx"
                write_dialect(module, source, dialect=dialect, input_shape=image.shape)
                RUNTIMES[runtime].build(source, Path(folder) / runtime / kind, settings)
                engines[kind] = open_engine(Path(folder) / runtime / kind)
            calls = {kind: (lambda engine=engine: engine.infer(image)) for kind, engine in engines.items()}
            times = measure(calls, rounds=options.rounds, repeats=options.repeats)
            ratios = sorted(a / b for a, b in zip(times["float"].rounds_ms, times["int8"].rounds_ms, strict=True))
            print(
                f"{options.variant} {options.size} {runtime}: INT8 {ratios[len(ratios) // 2]:.2f} times FP32 "
                f"({ratios[0]:.2f} to {ratios[-1]:.2f}), {engines['int8'].info.int8_convs} of "
                f"{engines['int8'].info.convs} convolutions INT8; {times['int8'].median_ms:.1f} ms"
            )


if __name__ == "__main__":
    main()
