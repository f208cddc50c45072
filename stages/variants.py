"""`variants`: the networks that `model.variant` can name, with what they cost."""

from __future__ import annotations

import torch

from yolov6core.models.cost import cost_of
from yolov6core.models.detector import build_detector
from yolov6core.models.variants import VARIANTS


def table(*, classes: int = 80, side: int = 640) -> list[str]:
    """One line per network of the table, under a header."""
    lines = [f"{'variant':15} {'block':15} {'strides':13} {'bins':>4} {'params, M':>9} {'GFLOPs':>8}"]
    for name, spec in VARIANTS.items():
        with torch.device("meta"):  # shapes alone: nothing is computed
            cost = cost_of(build_detector(spec, num_classes=classes), image_size=(side, side))
        strides = " ".join(map(str, spec.strides))
        lines.append(
            f"{name:15} {spec.block:15} {strides:13} {spec.reg_max or '-':>4} "
            f"{cost.deployed_parameters / 1e6:9.2f} {cost.gflops:8.2f}"
        )
    return lines
