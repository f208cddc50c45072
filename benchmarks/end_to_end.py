"""From a decoded picture to boxes in its pixels: INT8 against float, in turns in one process.

    python benchmarks/end_to_end.py                         # the committed run's network on its validation images
    python benchmarks/end_to_end.py --variant yolov6n_v2 --size 640 --nncf      # random weights: speed only

A call is letterbox, network, decoding and suppression of one uint8 BGR picture: what `infer` does. `network` is the
engine's call alone. Two thresholds of scores: 0.03, as in evaluation, and 0.25, as in use. Printed are medians in
milliseconds of the parts, and how many times faster INT8 is, as a median of the ratios of all rounds with its smallest
and largest. `--nncf` adds NNCF's model of the float file (pip install nncf), with OpenVINO's own pre-processing in the
graph (uint8, channels, scale, resize without letterbox) and the same suppression.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from engine_speed import exported, networks, nncf_model

from stages.shared import paths
from yolov6core.data.dataset import DetectionDataset
from yolov6core.engines.compatibility import RUNTIME_DIALECT
from yolov6core.engines.cpu import integer_arithmetic
from yolov6core.engines.latency import Latency, measure
from yolov6core.engines.registry import RUNTIMES, open_engine
from yolov6core.engines.runtime import BuildSettings
from yolov6core.evaluation.nms import nms
from yolov6core.serving.engine_detector import EngineDetector

THRESHOLDS = (0.03, 0.25)
IOU = 0.65
PICTURES = 32
SCORE = 0.004
"""What anchors of a network with random weights say, about: few are above the thresholds, as in use."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", help="a network with random weights; default: the files in artifacts/onnx")
    parser.add_argument("--size", type=int, default=640, help="side of the input of --variant, pixels")
    parser.add_argument("--kind", default="qat", help="the INT8 model of artifacts/onnx")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--nncf", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dataset = DetectionDataset(paths.DATASET, "val", limit=PICTURES)
    pictures = [dataset.load(index)[0] for index in range(len(dataset))]
    with tempfile.TemporaryDirectory() as name:
        files = files_of(options, Path(name))
        if options.variant:
            pictures = [cv2.resize(picture, (options.size, options.size * 3 // 4)) for picture in pictures]
        print(integer_arithmetic().describe())
        for threshold in THRESHOLDS:
            detectors = open_detectors(files, Path(name) / str(threshold), options.threads, threshold)
            calls: dict[str, Callable[[], object]] = {
                kind: Turns(detector, pictures) for kind, detector in detectors.items()
            }
            if options.nncf:
                calls["openvino nncf"] = Turns(
                    nncf_detector(files["openvino float"], pictures, options, threshold), pictures
                )
            times = measure(calls, rounds=options.rounds, repeats=options.repeats, warmup=3)
            print(f"scores above {threshold}:")
            for kind, detector in detectors.items():
                print(f"  {kind:20s} {times[kind].median_ms:7.2f} ms: {parts(detector, pictures)}")
            for fast, slow in compared(times):
                print(f"  {fast} is {ratio(times[slow], times[fast])} times as fast as {slow}")


class Turns:
    """A call that takes the next picture each time."""

    def __init__(self, detect: Callable[[Any], object], pictures: list[np.ndarray]) -> None:
        self.detect, self.pictures, self.count = detect, pictures, 0

    def __call__(self) -> object:
        self.count += 1
        return self.detect(self.pictures[self.count % len(self.pictures)])


def files_of(options: argparse.Namespace, folder: Path) -> dict[str, Path]:
    """'<runtime> <kind>' -> ONNX file."""
    if options.variant:
        made = networks(options.variant, options.size, score=SCORE, cpu=integer_arithmetic().sums)
        files = exported(dict(made), folder, (1, 3, options.size, options.size))
        return {name: path for name, path in files.items() if not name.startswith("tensorrt")}
    kinds = {"float": "float", "int8": options.kind}
    return {
        f"{runtime} {label}": paths.ONNX / f"{kind}.{RUNTIME_DIALECT[runtime]}.onnx"
        for runtime in ("openvino", "onnxruntime")
        for label, kind in kinds.items()
    }


def open_detectors(files: dict[str, Path], folder: Path, threads: int, threshold: float) -> dict[str, EngineDetector]:
    detectors = {}
    for name, path in files.items():
        target = folder / name.replace(" ", "_")
        RUNTIMES[name.split()[0]].build(path, target, BuildSettings(threads=threads))
        detectors[name] = EngineDetector(open_engine(target), score_threshold=threshold, iou_threshold=IOU)
    return detectors


def nncf_detector(
    path: Path, pictures: list[np.ndarray], options: argparse.Namespace, threshold: float
) -> Callable[[np.ndarray], np.ndarray]:
    """NNCF's model with pre-processing in the graph, and our suppression behind it."""
    import openvino as ov
    from openvino.preprocess import ColorFormat, PrePostProcessor, ResizeAlgorithm

    model = ov.convert_model(path)
    height, width = model.input(0).shape[2], model.input(0).shape[3]
    resized = [cv2.resize(picture, (width, height))[..., ::-1].transpose(2, 0, 1) for picture in pictures]
    quantized = nncf_model(path, [np.ascontiguousarray(image[None] / np.float32(255), np.float32) for image in resized])
    steps = PrePostProcessor(quantized)
    steps.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC")).set_color_format(ColorFormat.BGR)
    steps.input().tensor().set_spatial_dynamic_shape()
    steps.input().model().set_layout(ov.Layout("NCHW"))
    steps.input().preprocess().convert_element_type(ov.Type.f32).convert_color(ColorFormat.RGB)
    steps.input().preprocess().resize(ResizeAlgorithm.RESIZE_LINEAR).scale(255.0)
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": options.threads}
    settings["INFERENCE_PRECISION_HINT"] = "f32"
    request = ov.Core().compile_model(steps.build(), "CPU", settings).create_infer_request()

    def detect(picture: np.ndarray) -> np.ndarray:
        found = request.infer([picture[None]], share_inputs=True)
        boxes, scores = (found[name][0] for name in ("boxes", "scores"))
        how = {"score_threshold": threshold, "iou_threshold": IOU, "max_detections": 300, "multi_label": False}
        return nms(boxes, scores, **how)

    return detect


def compared(times: dict[str, Latency]) -> list[tuple[str, str]]:
    pairs = [(f"{runtime} int8", f"{runtime} float") for runtime in ("openvino", "onnxruntime")]
    pairs.append(("openvino int8", "openvino nncf"))
    return [(fast, slow) for fast, slow in pairs if fast in times and slow in times]


def parts(detector: EngineDetector, pictures: list[np.ndarray]) -> str:
    """Medians of the three parts of a call."""
    rows = [detector(picture)[1] for picture in pictures]
    before, inside, after = (
        statistics.median(getattr(row, name) for row in rows) for name in ("pre", "inference", "post")
    )
    return f"before {before:.2f}, network {inside:.2f}, after {after:.2f}"


def ratio(slow: Latency, fast: Latency) -> str:
    ratios = sorted(a / b for a, b in zip(slow.rounds_ms, fast.rounds_ms, strict=True))
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"


if __name__ == "__main__":
    main()
