"""`variants`: the networks that `model.variant` can name, with their cost (not a stage of the pipeline)."""

from __future__ import annotations

import torch

from yolov6core.models import published_costs
from yolov6core.models.cost import cost_of
from yolov6core.models.detector import build_detector
from yolov6core.models.variants import VARIANTS, ModelSpec


def table(*, classes: int = published_costs.CLASSES, side: int = published_costs.SIDE) -> list[str]:
    """One line per network of the table, under a header."""
    lines = [f"{'variant':15} {'block':15} {'strides':13} {'bins':>4} {'params, M':>9} {'GFLOPs':>8}"]
    for name, spec in VARIANTS.items():
        parameters, gflops = _cost(name, spec, classes=classes, side=side)
        strides = " ".join(map(str, spec.strides))
        lines.append(
            f"{name:15} {spec.block:15} {strides:13} {spec.reg_max or '-':>4} {parameters / 1e6:9.2f} {gflops:8.2f}"
        )
    return lines


def _cost(name: str, spec: ModelSpec, *, classes: int, side: int) -> tuple[int, float]:
    if (classes, side) == (published_costs.CLASSES, published_costs.SIDE) and name in published_costs.COSTS:
        return published_costs.COSTS[name]
    with torch.device("meta"):  # shapes alone: nothing is computed
        cost = cost_of(build_detector(spec, num_classes=classes), image_size=(side, side))
    return cost.deployed_parameters, cost.gflops
