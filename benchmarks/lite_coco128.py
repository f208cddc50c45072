"""What quantization leaves of a network with depthwise layers: published YOLOv6Lite-L weights on COCO128.

    python benchmarks/lite_coco128.py --shared ../shared --halves 3

Calibrates on a random half of the 128 images and prints AP on all of them, for every equalization and method, then for
what the pipeline would take: the method with the highest AP on the half itself, as an engine of this CPU (dialects
openvino and ort), with each repair, and with some layers float. Nothing is chosen on the other half. The images are of
the weights' own training set: compare rows only.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from yolov6core.base.saturation import CpuSums
from yolov6core.data.dataset import DetectionDataset
from yolov6core.data.transforms import network_input
from yolov6core.datasets.coco import read_coco
from yolov6core.datasets.images import Images as ImageList
from yolov6core.datasets.write import write_dataset
from yolov6core.engines.compatibility import RUNTIME_DIALECT
from yolov6core.engines.registry import RUNTIMES, open_engine
from yolov6core.engines.runtime import BuildSettings, infer_any
from yolov6core.evaluation.coco_map import coco_metrics
from yolov6core.evaluation.evaluator import evaluate
from yolov6core.export.dialects import slow_in_int8, write_dialect
from yolov6core.int8.layer_ranking import readout
from yolov6core.models.blocks import deploy_
from yolov6core.models.card import new_card
from yolov6core.models.decoded import DecodedNetwork, predictor
from yolov6core.models.variants import variant
from yolov6core.pretrained.weights import empty_network, load_weights_, read_weights
from yolov6core.quant.adaround import round_weights_
from yolov6core.quant.bias_correction import correct_biases_
from yolov6core.quant.calibrate import collect, ranges
from yolov6core.quant.equalize import equalize, input_peaks
from yolov6core.quant.insert import (
    QuantizedModel,
    convolution_names,
    insert_quantizers,
    ready_for_export_,
    set_float_layers_,
    set_ranges_,
    state_of,
)
from yolov6core.quant.observers import Method
from yolov6core.quant.sensitivity import fast_sensitivity
from yolov6core.tasks.networks import placed

SIZE = (320, 320)
CARD = new_card("yolov6_lite_l", names=tuple(map(str, range(80))), image_size=SIZE)
WEIGHTS = Path("weights/yolov6lite_l_coco.safetensors")
"""In the shared folder."""
METHODS = (
    Method("mse"),
    Method("entropy"),
    Method("percentile", 99.99),
    Method("percentile", 99.999),
    Method("max"),
)
EQUALIZE = {"off": (False, False), "cross_layer": (True, False), "depthwise": (False, True), "all": (True, True)}
REPAIR_IMAGES = 16


@dataclass(frozen=True)
class Figures:
    """AP in percent on the calibration half and on all images."""

    half: float
    all: float

    def __str__(self) -> str:
        return f"{self.half:9.2f} {self.all:9.2f}"


class Images:
    """The 128 letterboxed images, read once, and their ground truth."""

    def __init__(self, shared: Path, folder: Path) -> None:
        dataset = whole_dataset(shared / "data" / "coco128", folder)
        self.names, self.truth = dataset.names, dataset.ground_truth()
        self.batches = list(dataset.eval_batches(image_size=SIZE, batch_size=16))
        self.pixels = torch.cat([batch.images for batch in self.batches])
        self.ids = [image_id for batch in self.batches for image_id in batch.image_ids]

    def ground_truth(self) -> dict[str, Any]:
        return self.truth

    def eval_batches(self, *, image_size: tuple[int, int], batch_size: int) -> Iterator[Any]:
        return iter(self.batches)

    def inputs(self, indices: np.ndarray) -> list[Tensor]:
        """Batches of these images as the network reads them."""
        pixels = self.pixels[torch.from_numpy(np.sort(indices))]
        return [network_input(part) for part in pixels.split(16)]

    def score(self, network: nn.Module, half: np.ndarray) -> Figures:
        """Both APs from one run."""
        return self.score_of(predictor(network, CARD.strides), half)

    def score_of(self, predict: Callable[[Tensor], Any], half: np.ndarray) -> Figures:
        """Both APs of whatever takes images [B, 3, H, W] to boxes and scores."""
        result = evaluate(predict, self, image_size=SIZE, batch_size=16)
        kept = [self.ids[index] for index in np.sort(half)]
        found = {image_id: result.detections[image_id] for image_id in kept}
        part = coco_metrics(self.truth, found, image_ids=kept)
        return Figures(100 * part.stats["map50_95"], 100 * result.stats["map50_95"])


def whole_dataset(root: Path, folder: Path) -> DetectionDataset:
    """All images of a dataset of COCO form, written to an empty folder as the split `val`."""
    source = read_coco(str(root))
    assert source.names is not None, "COCO files declare their classes"
    everything = ImageList(image for images in source.splits.values() for image in images)
    write_dataset(folder, {"val": everything}, source.names)
    (folder / "dataset.yaml").write_text(json.dumps({"names": source.names}), encoding="utf-8")
    return DetectionDataset(folder, "val")


def published_network(path: Path, name: str) -> nn.Module:
    """The network of a variant with the weights of a file, deployed, in channels-last order."""
    given = read_weights(path)
    network = empty_network(variant(name), variant(name).block, given)
    load_weights_(network, given, where=str(path))
    return placed(deploy_(network.eval()).requires_grad_(False), "cpu")


def calibrated_tables(
    network: nn.Module, images: Images, half: np.ndarray, *, equalizations: list[str], dialect: str, cpu: CpuSums
) -> Iterator[tuple[str, QuantizedModel, Figures]]:
    """These equalizations with every method: a label, the model and its figures."""
    batches = images.inputs(half)
    peaks = input_peaks(network, batches)
    for label in equalizations:
        cross_layer, depthwise = EQUALIZE[label]
        equalized = equalize(network, peaks, cross_layer=cross_layer, depthwise=depthwise)
        gm = insert_quantizers(placed(equalized, "cpu"), dialect_name=dialect, cpu=cpu)
        statistics = collect(gm, batches)
        for method in METHODS:
            set_ranges_(gm, ranges(statistics, method))
            yield f"equalize {label}, {method}", gm, images.score(gm, half)


def engine_figures(gm: QuantizedModel, images: Images, half: np.ndarray, *, dialect: str, threads: int) -> Figures:
    """Figures of an engine built from the model, by the integer kernels of this CPU."""
    ready = ready_for_export_(copy.deepcopy(gm))
    set_float_layers_(ready, state_of(ready).float_layers | slow_in_int8(ready, dialect))
    runtime = next(name for name, wanted in RUNTIME_DIALECT.items() if wanted == dialect)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        decoded = DecodedNetwork(ready, strides=CARD.strides, image_size=SIZE)
        write_dialect(decoded, folder / "model.onnx", dialect=dialect, input_shape=(16, 3, *SIZE))
        info = RUNTIMES[runtime].build(folder / "model.onnx", folder / "engine", BuildSettings(threads=threads))
        engine = open_engine(folder / "engine")
        print(f"    {info.describe()}; {info.overflowing_convs} of them for exact sums only")
        return images.score_of(lambda pixels: infer_any(engine, pixels.numpy()), half)


def repairs(images: Images, half: np.ndarray, *, steps: int) -> dict[str, Callable[[QuantizedModel], object]]:
    """Label -> what is done to a copy of the chosen model."""
    first = images.inputs(half)[0][:REPAIR_IMAGES]
    found: dict[str, Callable[[QuantizedModel], object]] = {"bias correction": lambda gm: correct_biases_(gm, first)}
    if steps:
        found[f"adaround, {steps} steps"] = lambda gm: round_weights_(gm, first, steps=steps)
    return found


def partial(gm: QuantizedModel, images: Images, half: np.ndarray, *, most: int) -> tuple[str, Figures]:
    """At most so many layers float, the most sensitive first; how many is decided on the half."""
    sensitivity = fast_sensitivity(gm, images.inputs(half), readout=readout(CARD))
    order, always = sorted(sensitivity, key=lambda name: -sensitivity[name]), state_of(gm).float_layers
    tried = {}
    for count in sorted({most // 3, 2 * most // 3, most}):
        set_float_layers_(gm, always | set(order[:count]))
        tried[count] = images.score(gm, half)
    set_float_layers_(gm, always)
    best = max(tried, key=lambda count: tried[count].half)
    return f"{best} layers float", tried[best]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder with weights/ and data/coco128/")
    parser.add_argument("--halves", type=int, default=1, help="random halves to calibrate on, seeds 0, 1, ..")
    parser.add_argument("--dialect", default="trt", choices=("trt", "openvino", "ort"))
    parser.add_argument("--equalize", nargs="+", default=list(EQUALIZE), choices=list(EQUALIZE))
    parser.add_argument("--cpu", default="exact", choices=("exact", "saturating"), help="see ptq.cpu")
    parser.add_argument("--adaround", type=int, default=50, help="steps of every layer; 0 leaves the row out")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    network = published_network(options.shared / WEIGHTS, CARD.variant)
    with tempfile.TemporaryDirectory() as folder:
        images = Images(options.shared, Path(folder))
    for seed in range(options.halves):
        half = np.random.default_rng(seed).permutation(len(images.ids))[: len(images.ids) // 2]
        head = f"half {seed}, dialect {options.dialect}, cpu {options.cpu}"
        print(f"{head:40s} {'AP half':>9s} {'AP all':>9s}")
        print(f"{'float':40s} {images.score(network, half)}", flush=True)
        best: tuple[str, QuantizedModel, Figures] | None = None
        grid = {"dialect": options.dialect, "cpu": options.cpu}
        for label, gm, figures in calibrated_tables(network, images, half, equalizations=options.equalize, **grid):
            print(f"{label:40s} {figures}", flush=True)
            # as the pipeline does by default: the inputs of depthwise layers, and the best method
            if label.startswith("equalize depthwise") and (best is None or figures.half > best[2].half):
                best = label, copy.deepcopy(gm), figures
        if best is None:
            continue
        label, gm, figures = best
        print(f"{'chosen: ' + label:40s} {figures}", flush=True)
        if options.dialect != "trt":
            figures = engine_figures(gm, images, half, dialect=options.dialect, threads=options.threads)
            print(f"{'  as an engine':40s} {figures}", flush=True)
        name, figures = partial(gm, images, half, most=len(convolution_names(gm)) // 10)
        print(f"{'  with ' + name:40s} {figures}", flush=True)
        for name, repair in repairs(images, half, steps=options.adaround).items():
            repaired = copy.deepcopy(gm)
            repair(repaired)
            print(f"{'  with ' + name:40s} {images.score(repaired, half)}", flush=True)


if __name__ == "__main__":
    main()
