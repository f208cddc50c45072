"""The detection loss as a whole: names, weights of batches, order of targets, empty batches and refusals."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from yolov6core.losses.detection import DetectionLoss, pad_targets

SIZE = (64, 96)
ANCHORS = 8 * 12 + 4 * 6 + 2 * 3
TARGETS = torch.tensor(
    [[0, 1, 0.5, 0.5, 0.5, 0.6], [2, 0, 0.3, 0.4, 0.3, 0.3], [2, 2, 0.7, 0.5, 0.4, 0.8], [0, 0, 0.2, 0.3, 0.2, 0.3]]
)


def _outputs(images: int = 3, reg_max: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(images, ANCHORS, 3, generator=generator)
    distances = torch.rand(images, ANCHORS, 4 * (reg_max + 1), generator=generator) * 2 + 0.5
    return logits.requires_grad_(), distances.requires_grad_()


@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize("reg_max", [0, 16])
def test_terms_are_named_scalars_with_gradient(reg_max: int, epoch: int) -> None:
    loss = DetectionLoss(num_classes=3, reg_max=reg_max, warmup_epochs=1)
    logits, distances = _outputs(reg_max=reg_max)
    terms = loss(logits.bfloat16(), distances.bfloat16(), TARGETS, image_size=SIZE, epoch=epoch)
    assert list(terms) == ["class", "iou"] + ["dfl"] * bool(reg_max)
    assert all(term.dtype == torch.float32 and term.ndim == 0 and term > 0 for term in terms.values())
    sum(terms.values()).backward()
    assert logits.grad.any() and distances.grad.any()
    background = ~loss.assign(logits, distances, TARGETS, image_size=SIZE, epoch=epoch).positive
    assert not distances.grad[background].any()


def test_warmup_epochs_use_the_other_assigner() -> None:
    loss = DetectionLoss(num_classes=3, warmup_epochs=2)
    logits, distances = _outputs()
    found = [loss.assign(logits, distances, TARGETS, image_size=SIZE, epoch=epoch).positive for epoch in range(4)]
    assert torch.equal(found[0], found[1]) and torch.equal(found[2], found[3])
    assert not torch.equal(found[1], found[2])


def test_order_of_targets_does_not_matter_and_runs_repeat_exactly() -> None:
    loss = DetectionLoss(num_classes=3)
    first, second, shuffled = (
        loss(*_outputs(), rows, image_size=SIZE, epoch=0) for rows in (TARGETS, TARGETS, TARGETS[[3, 2, 0, 1]])
    )
    assert {"class", "iou"} <= set(first)
    for name in first:
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], shuffled[name])


@pytest.mark.parametrize("warmup", [0, 1])
def test_no_targets_leave_the_background_alone(warmup: int) -> None:
    logits, distances = _outputs()
    loss = DetectionLoss(num_classes=3, warmup_epochs=warmup)
    terms = loss(logits, distances, torch.zeros(0, 6), image_size=SIZE, epoch=0)
    assert terms["iou"].item() == 0 and terms["class"] > 0
    sum(terms.values()).backward()
    assert logits.grad.any() and not distances.grad.any()


def test_boxes_without_area_are_never_assigned() -> None:
    flat = torch.tensor([[0, 0, 0.5, 0.5, 0.0, 0.3], [1, 0, 0.5, 0.5, 0.0, 0.0]])
    for warmup in (0, 1):
        loss = DetectionLoss(num_classes=3, warmup_epochs=warmup)
        assert not loss.assign(*_outputs(), flat, image_size=SIZE, epoch=0).positive.any()
        terms = loss(*_outputs(), flat, image_size=SIZE, epoch=0)
        assert all(term.isfinite() for term in terms.values())


def test_an_image_smaller_than_every_topk_works() -> None:
    row = torch.tensor([[0, 0, 0.5, 0.5, 0.9, 0.9]])
    for warmup in (0, 1):
        loss = DetectionLoss(num_classes=1, strides=(16, 32), warmup_epochs=warmup)
        terms = loss(torch.zeros(1, 5, 1), torch.ones(1, 5, 4), row, image_size=(32, 32), epoch=0)
        assert all(term.isfinite() for term in terms.values())


def test_perfect_boxes_cost_nothing() -> None:
    row = torch.tensor([[0, 0, 0.5, 0.5, 0.5, 0.5]])
    loss = DetectionLoss(num_classes=1, strides=(16,))
    points = torch.tensor([[24.0, 24], [40.0, 24], [24.0, 40], [40.0, 40]])
    reach = torch.cat((points - 16, 48 - points), dim=1) / 16
    distances = torch.zeros(1, 16, 4)
    distances[0, [5, 6, 9, 10]] = reach
    terms = loss(torch.zeros(1, 16, 1), distances, row, image_size=(64, 64), epoch=0)
    assert terms["iou"].item() == pytest.approx(0, abs=1e-6)


def test_weak_targets_divide_only_on_request() -> None:
    logits, distances = _outputs(1)
    row = torch.tensor([[0, 0, 36 / 96, 36 / 64, 6 / 96, 6 / 64]])  # far smaller than anything predicted
    batch = {"image_size": SIZE, "epoch": 0}
    weak = DetectionLoss(num_classes=3).assign(logits, distances, row, **batch).scores.sum()
    assert 0 < weak < 1
    plain, divided = (
        DetectionLoss(num_classes=3, divide_above=limit)(logits, distances, row, **batch) for limit in (1.0, 0.0)
    )
    for name in plain:
        torch.testing.assert_close(plain[name] / weak, divided[name])


def test_targets_are_grouped_by_image_in_their_order() -> None:
    labels, boxes, mask = pad_targets(TARGETS, batch=4, image_size=SIZE, num_classes=3)
    assert mask.tolist() == [[True, True], [False, False], [True, True], [False, False]]
    assert labels[0].tolist() == [1, 0] and labels[2].tolist() == [0, 2]
    torch.testing.assert_close(boxes[0, 0], torch.tensor([24.0, 12.8, 72, 51.2]))


@pytest.mark.parametrize(("column", "value"), [(0, 3), (0, -1), (1, 3), (1, -1)])
def test_impossible_targets_are_refused(column: int, value: int) -> None:
    rows = TARGETS.clone()
    rows[1, column] = value
    with pytest.raises(ValueError, match="allowed are 0 .. 2 and 0 .. 2"):
        pad_targets(rows, batch=3, image_size=SIZE, num_classes=3)


def test_impossible_settings_and_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="iou_type is 'eiou'"):
        DetectionLoss(num_classes=3, iou_type="eiou")
    with pytest.raises(ValueError, match="num_classes is 0"):
        DetectionLoss(num_classes=0)
    with pytest.raises(ValueError, match="class logits and distances have shapes"):
        DetectionLoss(num_classes=3)(*_outputs(), TARGETS, image_size=(64, 64), epoch=0)
