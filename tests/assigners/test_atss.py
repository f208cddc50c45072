"""ATSS: invariants for any boxes, small levels, and cases worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from yolov6core.assigners.atss import AtssAssigner, smallest
from yolov6core.assigners.types import Assignment
from yolov6core.base.boxes import anchor_points, box_iou

CLASSES = 3


def _assign(boxes: Tensor, size: tuple[int, int], *, mask: Tensor | None = None, **settings: object) -> Assignment:
    """Assign boxes [B, G, 4] of classes 0, 1, 2, 0, ... with predictions that are the anchors' own 40 px squares."""
    points, strides = anchor_points(size, (8, 16, 32))
    batch, groups = boxes.shape[:2]
    squares = torch.cat((points - 20, points + 20), dim=1).expand(batch, -1, -1)
    labels = (torch.arange(groups) % CLASSES).expand(batch, -1)
    mask = torch.ones(batch, groups, dtype=torch.bool) if mask is None else mask
    scores = torch.zeros(batch, points.shape[0], CLASSES)
    return AtssAssigner(**settings)(scores, squares, points, labels, boxes, mask, strides=strides)


def _boxes(images: int, groups: int, size: tuple[int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    corner = torch.rand(images, groups, 2, generator=generator) * torch.tensor([size[1], size[0]]) * 0.6
    return torch.cat((corner, corner + 10 + 40 * torch.rand(corner.shape, generator=generator)), dim=-1)


@pytest.mark.slow
def test_positive_anchors_lie_in_their_box_and_carry_its_overlap() -> None:
    boxes = _boxes(3, 5, (96, 128))
    found = _assign(boxes, (96, 128))
    points, _ = anchor_points((96, 128), (8, 16, 32))
    image, anchor = found.positive.nonzero(as_tuple=True)
    assert image.numel() > 0
    mine = found.boxes[image, anchor]
    assert torch.equal(mine, boxes[image, found.gt_index[image, anchor]])
    assert (found.labels[image, anchor] == found.gt_index[image, anchor] % CLASSES).all()
    squares = torch.cat((points - 20, points + 20), dim=1)
    torch.testing.assert_close(found.scores[image, anchor].sum(dim=-1), box_iou(mine, squares[anchor]))
    hard = _assign(boxes, (96, 128), soft_labels=False)
    assert torch.equal(hard.positive, found.positive)
    assert set(hard.scores.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (32, 96)])
def test_levels_with_fewer_cells_than_topk_give_all_of_them(size: tuple[int, int]) -> None:
    found = _assign(torch.tensor([[[4.0, 4, 30, 30]]]), size)
    assert found.positive.any()


def test_a_single_candidate_is_finite() -> None:
    found = _assign(torch.tensor([[[4.0, 4, 30, 30]]]), (32, 32), topk=1)
    assert found.scores.isfinite().all()


def test_a_batch_is_its_images_one_by_one() -> None:
    boxes = _boxes(2, 4, (96, 96))
    whole = _assign(boxes, (96, 96))
    for image in range(2):
        assert torch.equal(_assign(boxes[image : image + 1], (96, 96)).scores[0], whole.scores[image])


@pytest.mark.parametrize("groups", [0, 3])
def test_padding_alone_is_background(groups: int) -> None:
    found = _assign(torch.zeros(2, groups, 4), (64, 64), mask=torch.zeros(2, groups, dtype=torch.bool))
    assert not found.positive.any() and not found.scores.any()


def test_of_two_equal_boxes_the_first_gets_the_anchors() -> None:
    found = _assign(torch.tensor([[[10.0, 10, 50, 50], [10.0, 10, 50, 50]]]), (96, 96))
    assert set(found.gt_index[found.positive].tolist()) == {0}


def test_smallest_takes_the_lower_index_of_equals() -> None:
    values = torch.tensor([[3.0, 1, 2, 1, 2, 2], [0.0, 0, 0, 0, 0, 0]])
    assert smallest(values, 4).tolist() == [[1, 2, 3, 4], [0, 1, 2, 3]]


def test_topk_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="topk is 0"):
        AtssAssigner(0)
