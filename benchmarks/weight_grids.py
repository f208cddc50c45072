"""What it costs to keep sums of 8-bit products within 16 bits, as CPUs without VNNI need it, in several ways.

    python benchmarks/weight_grids.py . ../seeds/bccd/seed0           # folders in which the pipeline has run
    python benchmarks/weight_grids.py --shared ../shared              # published YOLOv6Lite-L on COCO128, three halves

mAP50:95 in points of PTQ in fake-quantized torch, on the `openvino` dialect's grid, for every calibration method: with
all 8 bits (wrong on such CPUs); with weights limited by pairs (`ptq.cpu: saturating`); with all weights in half their
range; with 7-bit activations. The last three are exact on every CPU.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from lite_coco128 import CARD, METHODS, WEIGHTS, Images, published_network
from torch import Tensor, nn

from stages.shared import paths
from yolov6core.base.saturation import has_pairs
from yolov6core.data.dataset import DetectionDataset
from yolov6core.data.views import image_batches
from yolov6core.quant.calibrate import collect, ranges
from yolov6core.quant.equalize import equalize, input_peaks
from yolov6core.quant.graph_ops import activation_quantizers
from yolov6core.quant.insert import (
    QuantizedModel,
    freeze_weight_ranges_,
    insert_quantizers,
    quantized_convolutions,
    set_ranges_,
)
from yolov6core.quant.spec import Grid
from yolov6core.tasks.evaluation import SplitEvaluator
from yolov6core.tasks.networks import load_float, placed

SEVEN_BITS = Grid(-64, 63, symmetric=True, unsigned=Grid(0, 127, symmetric=False))


def plain(network: nn.Module) -> QuantizedModel:
    """All 8 bits."""
    return insert_quantizers(network, dialect_name="openvino")


def pairs(network: nn.Module) -> QuantizedModel:
    """Weights that are added in 16 bits are at most 128 together."""
    return insert_quantizers(network, dialect_name="openvino", cpu="saturating")


def half_range(network: nn.Module) -> QuantizedModel:
    """All weights are at most 64, but in depthwise layers."""
    gm = plain(network)
    freeze_weight_ranges_(gm)
    for conv in quantized_convolutions(gm):
        if has_pairs(conv.weight, conv.groups):
            conv.weight_amax.mul_(127 / 64)
    return gm


def seven_bits(network: nn.Module) -> QuantizedModel:
    """All activations have half their levels."""
    gm = plain(network)
    for quantizer in activation_quantizers(gm).values():
        quantizer.grid = SEVEN_BITS
    return gm


WAYS = {"8 bits": plain, "pairs": pairs, "half range": half_range, "7-bit activations": seven_bits}


def table(network: nn.Module, batches: list[Tensor], score: Callable[[nn.Module], float]) -> Iterator[str]:
    """A row for each calibration method."""
    yield f"{'float':20s} {score(network):18.2f}"
    models = {label: way(network) for label, way in WAYS.items()}
    yield f"{'':20s} " + " ".join(f"{label:>18s}" for label in models)
    statistics = collect(models["8 bits"], batches)
    for method in METHODS:
        row = []
        for gm in models.values():
            set_ranges_(gm, ranges(statistics, method))
            row.append(f"{score(gm):18.2f}")
        yield f"{method!s:20s} " + " ".join(row)


def of_folder(folder: Path) -> Iterator[str]:
    """The float network that the pipeline trained in a folder, on its validation images."""
    with contextlib.chdir(folder):
        network, card = load_float(paths.WEIGHTS["float"])
        calib = DetectionDataset(paths.DATASET, "calib")
        batches = list(image_batches(calib, image_size=card.image_size, shrink=card.shrink, batch_size=16))
        on_val = SplitEvaluator(DetectionDataset(paths.DATASET, "val"), card, batch_size=16)
        yield from table(network, batches, lambda model: 100 * on_val(model).stats["map50_95"])


def of_lite(shared: Path, seed: int) -> Iterator[str]:
    """Published YOLOv6Lite-L, calibrated on a random half of COCO128, on all of it."""
    network = published_network(shared / WEIGHTS, CARD.variant)
    with tempfile.TemporaryDirectory() as folder:
        images = Images(shared, Path(folder))
    half = np.random.default_rng(seed).permutation(len(images.ids))[: len(images.ids) // 2]
    batches = images.inputs(half)
    even = equalize(network, input_peaks(network, batches), cross_layer=False, depthwise=True)
    yield from table(placed(even, "cpu"), batches, lambda model: images.score(model, half).all)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="*", help="in which the pipeline has run")
    parser.add_argument("--shared", type=Path, help="folder with weights/ and data/coco128/")
    parser.add_argument("--halves", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for folder in options.folders:
        print(folder)
        for line in of_folder(folder):
            print("  " + line, flush=True)
    for seed in range(options.halves) if options.shared else ():
        print(f"YOLOv6Lite-L, half {seed}")
        for line in of_lite(options.shared, seed):
            print("  " + line, flush=True)


if __name__ == "__main__":
    main()
