"""A dataset, a float network of random weights and calibrated copies of it, where commands look for them."""

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
from yolov6core.quant.insert import convolution_names, insert_quantizers, set_float_layers_, set_ranges_, state_of
from yolov6core.quant.observers import Method
from yolov6core.tasks.networks import load_float

NAMES = ("disc", "square", "cross")


def write_checkpoints(root: Path, *kinds: str, cpu: str = "") -> None:
    """Write dataset and checkpoints under the present folder, which is `root`.

    Args:
        kinds: of the quantized checkpoints; the first two convolutions of `partial` are float.
        cpu: sums of the CPUs that they are for; the CPU at hand by default.
    """
    (root / "artifacts").mkdir()
    make_dataset(root, splits=("calib", "val")).rename(root / "artifacts" / "dataset")
    card = small_card(NAMES)
    batches = list(image_batches(DetectionDataset(paths.DATASET, "calib"), image_size=card.image_size, batch_size=3))
    write_float(card, torch.cat(batches))  # batch norm has seen the data
    deployed, card = load_float(paths.WEIGHTS["float"])
    model = insert_quantizers(deployed, cpu=cpu or integer_arithmetic().sums)
    set_ranges_(model, ranges(collect(model, batches), Method("max")))
    floats = state_of(model).float_layers
    for kind in kinds:
        more = convolution_names(model)[:2] if kind == "partial" else ()
        set_float_layers_(model, floats.union(more))
        save_quantized(paths.WEIGHTS[kind], model, card, method="max")
