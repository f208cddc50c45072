"""Time of range searches, here and in nvidia-modelopt, on the histograms of one calibration.

    python benchmarks/calibration_speed.py --variant yolov6s_v2 --size 320 --tensors 5

Prints CPU seconds, one thread, of the pass over the images, of all methods for all tensors, and, where nvidia-modelopt
is installed, the ratio of both implementations for single tensors. Weights are random: this is about time only.
"""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from torch import nn

from yolov6core.models.blocks import deploy_
from yolov6core.models.detector import build_detector
from yolov6core.models.variants import variant
from yolov6core.quant.calibrate import Statistics, collect, ranges
from yolov6core.quant.insert import insert_quantizers
from yolov6core.quant.observers import Histogram, Method, entropy_threshold, mse_threshold

METHODS = (Method("mse"), Method("entropy"), Method("percentile", 99.99), Method("percentile", 99.999), Method("max"))
Search = Callable[[], float]


def cpu_seconds(call: Callable[[], object], *, repeats: int = 1) -> float:
    """CPU time of one call, the least of some."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


def calibration(name: str, *, size: int, batches: int) -> Statistics:
    """What a pass over random images leaves, batch norm made to fit them."""
    torch.manual_seed(0)
    detector = build_detector(variant(name), num_classes=80).train()
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    images = [torch.rand(8, 3, size, size) for _ in range(batches)]
    with torch.no_grad():
        detector(images[0])
    gm = insert_quantizers(deploy_(detector.eval()))
    start = time.process_time()
    statistics = collect(gm, images)
    print(f"{name} {size}: {statistics.images} images counted in {time.process_time() - start:.1f} s")
    return statistics


def toolkit_search(histogram: Histogram, kind: str) -> Search | None:
    """nvidia-modelopt's search on the same counts, None where it is not installed."""
    try:
        module = importlib.import_module("modelopt.torch.quantization.calib.histogram")
    except ImportError:
        return None

    def search() -> float:
        calibrator = module.HistogramCalibrator(num_bits=8, axis=None, unsigned=False)
        calibrator._calib_hist = histogram.counts.astype(np.float32)
        calibrator._calib_bin_edges = histogram.edges.astype(np.float32)
        return float(calibrator.compute_amax(kind))

    return search


def compare(histograms: list[Histogram]) -> None:
    """Ratios of CPU time for entropy and MSE, tensor by tensor."""
    ours = {"entropy": entropy_threshold, "mse": mse_threshold}
    for kind, search in ours.items():
        rows = []
        for histogram in histograms:
            theirs = toolkit_search(histogram, kind)
            if theirs is None:
                print("nvidia-modelopt is not installed: nothing to compare with")
                return
            seconds = cpu_seconds(lambda h=histogram, s=search: s(h.counts, h.width), repeats=10)
            # MSE in modelopt 0.47 hands its arguments over in a wrong order: its time counts here, its result does not.
            rows.append((cpu_seconds(theirs, repeats=2 if kind == "mse" else 1), seconds))
        ratios = [there / here for there, here in rows]
        print(
            f"{kind}: {1000 * median(here for _, here in rows):.2f} ms a tensor, modelopt "
            f"{1000 * median(there for there, _ in rows):.0f} ms: {median(ratios):.0f} times "
            f"({min(ratios):.0f} to {max(ratios):.0f}) on {len(rows)} tensors"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="yolov6s_v2")
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--batches", type=int, default=4, help="of 8 images")
    parser.add_argument("--tensors", type=int, default=5, help="how many the toolkits are compared on")
    options = parser.parse_args()
    torch.set_num_threads(1)
    statistics = calibration(options.variant, size=options.size, batches=options.batches)
    seconds = cpu_seconds(lambda: [ranges(statistics, method) for method in METHODS])
    print(f"all {len(METHODS)} methods for {len(statistics.histograms)} tensors: {seconds:.2f} s")
    histograms = list(statistics.histograms.values())
    compare(histograms[:: max(1, len(histograms) // options.tensors)][: options.tensors])


if __name__ == "__main__":
    main()
