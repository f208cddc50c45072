"""A small project that bundles are made from: a dataset, a float network and quantized copies of it."""

from __future__ import annotations

from pathlib import Path

import torch

from stages.shared import paths
from tests.support.dataset_folder import make_dataset
from tests.support.pipeline import small_card, write_float
from yolov6core.data.dataset import DetectionDataset
from yolov6core.data.views import image_batches
from yolov6core.engines.cpu import integer_arithmetic
from yolov6core.int8.quantized_networks import save_quantized
from yolov6core.quant.calibrate import collect, ranges
from yolov6core.quant.insert import insert_quantizers, set_ranges_
from yolov6core.quant.observers import Method
from yolov6core.tasks.networks import load_float

NAMES = ("disc", "square", "cross")


def write_bundle_project(root: Path) -> None:
    """Write dataset and checkpoints of kinds float and qat under the present folder, which is `root`."""
    (root / "artifacts").mkdir()
    make_dataset(root, splits=("calib", "val")).rename(root / "artifacts" / "dataset")
    card = small_card(NAMES)
    dataset = DetectionDataset(paths.DATASET, "calib")

    def batches() -> list[torch.Tensor]:
        return list(image_batches(dataset, image_size=card.image_size, batch_size=3))

    write_float(card, torch.cat(batches()))
    deployed, card = load_float(paths.WEIGHTS["float"])
    model = insert_quantizers(deployed, cpu=integer_arithmetic().sums)
    set_ranges_(model, ranges(collect(model, batches()), Method("max")))
    save_quantized(paths.WEIGHTS["qat"], model, card, method="max")
