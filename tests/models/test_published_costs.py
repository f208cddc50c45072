"""The stored costs are those of the networks."""

from __future__ import annotations

import pytest
import torch

from yolov6core.models.cost import cost_of
from yolov6core.models.detector import build_detector
from yolov6core.models.published_costs import CLASSES, COSTS, SIDE
from yolov6core.models.variants import VARIANTS


def test_every_variant_has_a_cost():
    assert list(COSTS) == list(VARIANTS)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in ("test", "yolov6n") else pytest.mark.slow) for n in COSTS]
)
def test_costs_are_counted_right(name):
    with torch.device("meta"):
        cost = cost_of(build_detector(VARIANTS[name], num_classes=CLASSES), image_size=(SIDE, SIDE))
    assert COSTS[name] == (cost.deployed_parameters, pytest.approx(cost.gflops, abs=1e-4))
