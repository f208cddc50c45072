"""Loss functions: values that can be worked out by hand, invariances and gradients."""

from __future__ import annotations

import math

import pytest
import torch

from yolov6core.losses.functional import BOX_LOSSES, distribution_focal, expected_distances, varifocal

UNIT = [0.0, 0, 1, 1]


@pytest.mark.parametrize("name", sorted(BOX_LOSSES))
def test_identical_boxes_cost_nothing(name: str) -> None:
    boxes = torch.tensor([UNIT, [3.0, 5, 40, 17], [0.1, 0.2, 0.3, 0.7]])
    torch.testing.assert_close(BOX_LOSSES[name](boxes, boxes), torch.zeros(3), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "other", "expected"),
    [
        ("iou", [0.0, 0, 0.5, 0.5], 0.75),
        ("giou", [0.0, 0, 0.5, 0.5], 0.75),
        ("giou", [1.0, 0, 2, 1], 1.0),
        ("giou", [1.0, 1, 2, 2], 1.5),
        ("diou", [1.0, 0, 2, 1], 1 + 1 / 5),  # centres 1 apart, enclosing box 2 x 1
        ("ciou", [1.0, 0, 2, 1], 1 + 1 / 5),  # equal shapes
        ("ciou", [0.0, 0, 1, 2], 1 - 0.5 + 0.25 / 5 + 0),
        ("siou", [1.0, 0, 2, 1], 1 + (1 - math.exp(-2 / 4)) / 2),  # along the axis: angle 0, no change of shape
        ("siou", [1.0, 1, 2, 2], 1 + (2 - 2 * math.exp(-1 / 4)) / 2),  # diagonal: angle term 1
    ],
)
def test_analytic_values(name: str, other: list[float], expected: float) -> None:
    if name == "ciou" and other[3] == 2:
        aspect = 4 / math.pi**2 * (math.atan(0.5) - math.atan(1)) ** 2
        expected += aspect**2 / (0.5 + aspect)
    found = BOX_LOSSES[name](torch.tensor([UNIT]), torch.tensor([other]))
    assert found.item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", sorted(BOX_LOSSES))
def test_box_losses_do_not_depend_on_scale_and_place(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(2, 50, 2, generator=generator, dtype=torch.float64)
    pred, target = torch.cat((corner, corner + 0.1 + torch.rand(corner.shape, generator=generator)), dim=-1)
    moved = BOX_LOSSES[name](pred * 8 + 5, target * 8 + 5)
    torch.testing.assert_close(BOX_LOSSES[name](pred, target), moved, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", sorted(BOX_LOSSES))
def test_flat_boxes_stay_finite_and_so_do_their_gradients(name: str) -> None:
    flat = torch.tensor([[5.0, 5, 5, 5], [5.0, 5, 5, 9], [5.0, 5, 9, 5], [9.0, 9, 5, 5]])
    pred = flat.repeat_interleave(4, dim=0).requires_grad_()
    loss = BOX_LOSSES[name](pred, flat.repeat(4, 1))
    loss.sum().backward()
    assert loss.isfinite().all() and pred.grad.isfinite().all()


@pytest.mark.parametrize("name", sorted(BOX_LOSSES))
def test_no_boxes_keep_the_gradient(name: str) -> None:
    pred = torch.zeros(0, 4, requires_grad=True)
    BOX_LOSSES[name](pred, torch.zeros(0, 4)).sum().backward()
    assert pred.grad.shape == (0, 4)


def test_varifocal_weighs_positives_by_target_and_negatives_by_score() -> None:
    logits = torch.tensor([0.0, 0.0])
    found = varifocal(logits, torch.tensor([0.8, 0.0]), torch.tensor([True, False]))
    torch.testing.assert_close(found, torch.tensor([0.8 * math.log(2), 0.75 * 0.25 * math.log(2)]))


def test_varifocal_gradient_is_that_of_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, generator=generator).double().requires_grad_()
    targets = torch.rand(4, 3, generator=generator).double()
    positive = targets > 0.6

    def loss(values: torch.Tensor) -> torch.Tensor:
        score = values.sigmoid()
        weight = torch.where(positive, targets, 0.75 * score**2)
        return -(weight * (targets * score.log() + (1 - targets) * (1 - score).log())).sum()

    (expected,) = torch.autograd.grad(loss(logits), logits)
    (found,) = torch.autograd.grad(varifocal(logits, targets, positive).sum(), logits)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_varifocal_of_extreme_logits_is_finite() -> None:
    logits = torch.tensor([-200.0, 200.0], requires_grad=True)
    varifocal(logits, torch.tensor([1.0, 0.0]), torch.tensor([True, False])).sum().backward()
    assert logits.grad.isfinite().all()


def test_distribution_focal_is_least_at_the_mixture_of_neighbours() -> None:
    distance = torch.tensor([[2.25, 0.0, 3.0, 6.99]])
    logits = torch.full((1, 4, 8), -30.0)
    for side, value in enumerate(distance[0].tolist()):
        share = value - int(value)
        logits[0, side, int(value)] = math.log(max(1 - share, 1e-12))
        logits[0, side, int(value) + 1] = math.log(max(share, 1e-12))
    entropy = -sum(p * math.log(p) for p in (0.25, 0.75, 0.01, 0.99)) / 4
    assert distribution_focal(logits, distance).item() == pytest.approx(entropy, abs=1e-4)
    torch.testing.assert_close(expected_distances(logits.flatten(1)), distance, rtol=0, atol=1e-4)


def test_uniform_bins_cost_the_logarithm_of_their_number() -> None:
    found = distribution_focal(torch.zeros(3, 4, 17), torch.full((3, 4), 4.5))
    torch.testing.assert_close(found, torch.full((3,), math.log(17)))
