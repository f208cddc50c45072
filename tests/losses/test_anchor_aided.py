"""The anchor-based branch: layout of its anchors, perfect boxes, empty batches, inputs left alone."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from yolov6core.losses.anchor_aided import AnchorAidedLoss, offsets_to_distances

SIZE = (64, 64)
STRIDES = (16, 32)
POINTS = 16 + 4


def _outputs(images: int = 2, anchors: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(images, anchors * POINTS, 2, generator=generator)
    offset = torch.rand(images, anchors * POINTS, 2, generator=generator) - 0.5
    size = torch.rand(images, anchors * POINTS, 2, generator=generator) * 2 + 0.5
    return logits.requires_grad_(), torch.cat((offset, size), dim=-1).requires_grad_()


def _loss(**settings: Any) -> AnchorAidedLoss:
    return AnchorAidedLoss(**({"num_classes": 2, "strides": STRIDES} | settings))


def test_offsets_become_distances() -> None:
    found = offsets_to_distances(torch.tensor([0.5, -0.25, 4.0, 2.0]))
    assert found.tolist() == [1.5, 1.25, 2.5, 0.75]


def test_a_level_comes_whole_for_every_anchor_of_a_point() -> None:
    """A box found by the second anchor of a cell of the second level is perfect there and nowhere else."""
    logits, boxes = torch.zeros(1, 3 * POINTS, 2), torch.zeros(1, 3 * POINTS, 4)
    place = (
        3 * 16 + 4 + 1
    )  # after the first level, after the second level's first anchor: top right cell, centre 48, 16
    boxes[0, place] = torch.tensor([-0.25, 0.5, 1.0, 1.5])  # centre 40, 32; 32 x 48 px
    row = torch.tensor([[0, 1, 40 / 64, 32 / 64, 32 / 64, 48 / 64]])
    found = _loss().assign(logits, boxes, row, image_size=SIZE)
    assert found.positive[0].nonzero().flatten().tolist() == [place]
    terms = _loss()(logits, boxes, row, image_size=SIZE)
    assert terms["iou"].item() == pytest.approx(0, abs=1e-6)
    others = (2 * 3 * POINTS - 1) * 0.75 * 0.25 * math.log(2)
    assert terms["class"].item() == pytest.approx(others + math.log(2), rel=1e-5), "soft target 1 and background"


def test_every_box_gets_more_candidates_than_without_anchors() -> None:
    logits, boxes = _outputs(1)
    row = torch.tensor([[0, 0, 0.5, 0.5, 0.9, 0.9]])
    assert int(_loss().assign(logits, boxes, row, image_size=SIZE).positive.sum()) == 26
    assert int(_loss(topk=5).assign(logits, boxes, row, image_size=SIZE).positive.sum()) == 5


def test_terms_carry_gradient_and_leave_the_outputs_as_they_are() -> None:
    logits, boxes = _outputs()
    before = boxes.detach().clone()
    terms = _loss()(logits.bfloat16(), boxes, torch.tensor([[1, 0, 0.5, 0.5, 0.6, 0.6]]), image_size=SIZE)
    assert list(terms) == ["class", "iou"]
    assert all(term.dtype == torch.float32 and term.ndim == 0 and term > 0 for term in terms.values())
    sum(terms.values()).backward()
    assert logits.grad.any() and boxes.grad[1].any() and not boxes.grad[0].any()
    assert torch.equal(boxes, before)


def test_no_targets_teach_the_background_only() -> None:
    logits, boxes = _outputs()
    for divide_above in (0.0, 1.0):
        logits.grad = boxes.grad = None
        terms = _loss(divide_above=divide_above)(logits, boxes, torch.zeros(0, 6), image_size=SIZE)
        assert terms["iou"].item() == 0 and terms["class"] > 0
        sum(terms.values()).backward()
        assert logits.grad.isfinite().all() and logits.grad.any() and not boxes.grad.any()


def test_weak_targets_divide_only_on_request() -> None:
    logits, boxes = _outputs(1)
    row = torch.tensor([[0, 0, 24 / 64, 24 / 64, 4 / 64, 4 / 64]])  # around one point, far smaller than any prediction
    weak = _loss().assign(logits, boxes, row, image_size=SIZE).scores.sum()
    assert 0 < weak < 1
    plain, divided = (_loss(divide_above=limit)(logits, boxes, row, image_size=SIZE) for limit in (1.0, 0.0))
    for name in plain:
        torch.testing.assert_close(plain[name] / weak, divided[name])


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="anchors is 0"):
        _loss(anchors=0)
    with pytest.raises(ValueError, match="class logits and distances have shapes"):
        _loss(anchors=2)(*_outputs(), torch.zeros(0, 6), image_size=SIZE)
