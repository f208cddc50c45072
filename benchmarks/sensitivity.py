"""The fast measure of sensitivity against the exact one: time of both, and whether they rank layers alike.

    python benchmarks/sensitivity.py                                        # the sample, after `dvc repro ptq-calib`
    python benchmarks/sensitivity.py --weights ptq.safetensors --dataset artifacts/dataset --split val
    python benchmarks/sensitivity.py --weights float.safetensors --method max
    python benchmarks/sensitivity.py --weights lite.safetensors --official yolov6_lite_l --dataset coco128

A float checkpoint is calibrated first. `--official` reads published weights, as in tests/parity/test_real_weights.py.
`--dataset` is a folder that `prepare-voc2yolo` wrote, or a dataset of COCO form, which is then used whole.
`exact` quantizes one layer at a time and evaluates. Three things are compared with the fast measure: mAP lost against
the labels (on few images mostly noise), the same over the layers whose loss exceeds two standard errors, and mAP lost
against the float network's own detections.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from lite_coco128 import published_network, whole_dataset
from torch import Tensor, nn

from yolov6core.data.dataset import DetectionDataset
from yolov6core.data.views import image_batches
from yolov6core.evaluation.evaluator import EvalResult
from yolov6core.int8.layer_ranking import log_correlations, measure_exactly, readout
from yolov6core.int8.quantized_networks import load_quantized
from yolov6core.models.card import NetworkCard, new_card
from yolov6core.quant.calibrate import collect, ranges
from yolov6core.quant.insert import QuantizedModel, insert_quantizers, quantizers_off, set_ranges_
from yolov6core.quant.observers import Method
from yolov6core.quant.sensitivity import fast_sensitivity, quantized_names
from yolov6core.tasks.evaluation import SplitEvaluator
from yolov6core.tasks.networks import load_float, read_network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=Path("artifacts/ptq/weights.safetensors"))
    parser.add_argument("--dataset", type=Path, default=Path("artifacts/dataset"))
    parser.add_argument("--split", default="select", help="images of the exact measure")
    parser.add_argument("--official", default="", help="variant of published weights")
    parser.add_argument("--size", type=int, default=320, help="image size of published weights")
    parser.add_argument(
        "--method", default="mse", help="calibration of float weights: max, mse, entropy, percentile_99.99"
    )
    parser.add_argument("--images", type=int, default=None, help="of the exact measure; default all of the split")
    parser.add_argument("--fast-images", type=int, default=32, help="first images of the split, for the fast one")
    parser.add_argument("--state", type=Path, help="keep exact results in this file, and continue from it")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON file with every layer's values")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        run(options, Path(scratch))


def run(options: argparse.Namespace, scratch: Path) -> None:
    """Measure both ways and print the comparison."""
    folder, split = opened(options.dataset, options.split, scratch)
    images = DetectionDataset(folder, split, limit=options.images)
    network, card = float_or_quantized(options, names=images.names)

    def batches() -> Iterator[Tensor]:
        first = DetectionDataset(folder, split, limit=options.fast_images)
        return image_batches(first, image_size=card.image_size, shrink=card.shrink)

    gm = network if isinstance(network, QuantizedModel) else calibrated(network, batches(), options.method)
    seconds = {"exact": 0.0}
    evaluate = SplitEvaluator(images, card, batch_size=16)

    def score(module: nn.Module) -> EvalResult:
        started = time.perf_counter()
        result = evaluate(module)
        seconds["exact"] += time.perf_counter() - started
        return result

    fast, seconds["fast"] = timed(lambda: fast_sensitivity(gm, batches(), readout=readout(card)))
    with quantizers_off(gm):
        float_result = score(gm)
    print(f"{len(images)} images, {len(quantized_names(gm))} layers, float mAP {float_result.stats['map50_95']:.4f}")
    print(f"INT8 mAP {score(gm).stats['map50_95']:.4f}", flush=True)
    seconds["exact"] = 0.0
    exact = measure_exactly(gm, evaluate=score, float_result=float_result, truth=evaluate.truth, state=options.state)
    columns = {"fast": fast} | exact
    print(
        f"fast {seconds['fast']:.1f} s, exact {seconds['exact']:.1f} s (evaluation alone): "
        f"{seconds['exact'] / seconds['fast']:.0f} times"
    )
    log_correlations(columns)
    if options.out:
        options.out.write_text(json.dumps({"seconds": seconds, **columns}, indent=1), encoding="utf-8")


def timed(action: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    return action(), time.perf_counter() - started


def opened(path: Path, split: str, scratch: Path) -> tuple[Path, str]:
    """Prepared folder, and its split to measure on."""
    if (path / "dataset.yaml").is_file() and (path / f"{split}.txt").is_file():
        return path, split
    whole_dataset(path, scratch)
    return scratch, "val"


def float_or_quantized(options: argparse.Namespace, names: tuple[str, ...]) -> tuple[nn.Module, NetworkCard]:
    """The network of a checkpoint, or of published weights, and its card."""
    if options.official:
        card = new_card(options.official, names=names, image_size=(options.size, options.size))
        return published_network(options.weights, card.variant), card
    _, card = read_network(options.weights)
    return load_float(options.weights) if card.quantization is None else load_quantized(options.weights)


def calibrated(network: nn.Module, batches: Iterator[Tensor], method: str) -> QuantizedModel:
    """A float network with quantizers."""
    gm = insert_quantizers(network)
    set_ranges_(gm, ranges(collect(gm, batches), Method.parse(method)))
    return gm


if __name__ == "__main__":
    main()
