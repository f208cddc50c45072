"""Float and PTQ checkpoints as the stages before QAT leave them."""

from __future__ import annotations

import torch

from stages.shared import paths
from tests.support.pipeline import write_float
from yolov6core.int8.quantized_networks import save_quantized
from yolov6core.models.blocks import deploy_
from yolov6core.models.card import NetworkCard
from yolov6core.quant.calibrate import collect, ranges
from yolov6core.quant.insert import insert_quantizers, set_ranges_
from yolov6core.quant.observers import Method


def pixels(count: int = 4) -> torch.Tensor:
    """Images uint8 [count, 3, 64, 64] of noise, the same on every call."""
    return torch.randint(0, 256, (count, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def write_start(card: NetworkCard) -> None:
    """Write both checkpoints of an untrained network."""
    network = write_float(card, pixels() / 255)
    model = insert_quantizers(deploy_(network.eval()))
    set_ranges_(model, ranges(collect(model, [pixels() / 255]), Method("max")))
    save_quantized(paths.WEIGHTS["ptq"], model, card, method="max")
