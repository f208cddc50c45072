"""Box geometry: inverses, anchor order and overlaps that can be checked by hand."""

from __future__ import annotations

import pytest
import torch

from yolov6core.base.boxes import (
    anchor_points,
    box_iou,
    boxes_to_distances,
    cxcywh_to_xyxy,
    distances_to_boxes,
    pairwise_iou,
    xyxy_to_cxcywh,
)


def _random_boxes(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(count, 2, generator=generator) * 50
    return torch.cat((corner, corner + 1 + torch.rand(count, 2, generator=generator) * 40), dim=1)


def test_centre_and_corner_forms_are_inverse() -> None:
    boxes = _random_boxes(20).view(4, 5, 4)
    torch.testing.assert_close(cxcywh_to_xyxy(xyxy_to_cxcywh(boxes)), boxes)
    assert xyxy_to_cxcywh(torch.tensor([10.0, 20, 30, 60])).tolist() == [20, 40, 20, 40]


def test_anchor_points_are_cell_centres_level_by_level_row_by_row() -> None:
    points, strides = anchor_points((32, 64), (16, 32))
    assert points[:5].tolist() == [[8, 8], [24, 8], [40, 8], [56, 8], [8, 24]]
    assert points[8:].tolist() == [[16, 16], [48, 16]]
    assert strides.flatten().tolist() == [16] * 8 + [32] * 2


def test_distances_and_boxes_are_inverse() -> None:
    points, _ = anchor_points((32, 64), (16,))
    boxes = _random_boxes(16).view(2, 8, 4)
    torch.testing.assert_close(distances_to_boxes(points, boxes_to_distances(points, boxes)), boxes)


def test_distances_are_clipped_to_the_limit() -> None:
    distances = boxes_to_distances(torch.tensor([[10.0, 10]]), torch.tensor([[0.0, 12, 20, 11]]), limit=7.99)
    torch.testing.assert_close(distances, torch.tensor([[7.99, 0, 7.99, 1]]))


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ([0.0, 0, 10, 10], 1.0),
        ([0.0, 0, 5, 5], 0.25),
        ([5.0, 0, 15, 10], 1 / 3),
        ([10.0, 0, 20, 10], 0.0),
        ([30.0, 30, 40, 40], 0.0),
        ([10.0, 10, 0, 0], 0.0),  # inverted
    ],
)
def test_overlap_of_simple_boxes(other: list[float], expected: float) -> None:
    found = box_iou(torch.tensor([0.0, 0, 10, 10]), torch.tensor(other))
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_pairwise_equals_one_by_one_and_is_symmetric() -> None:
    a, b = _random_boxes(12).view(2, 6, 4), _random_boxes(10).view(2, 5, 4)
    table = pairwise_iou(a, b)
    assert table.shape == (2, 6, 5)
    torch.testing.assert_close(table[1, 2, 3], box_iou(a[1, 2], b[1, 3]))
    torch.testing.assert_close(table, pairwise_iou(b, a).mT)


def test_boxes_without_area_are_finite_unless_asked_otherwise() -> None:
    empty = torch.zeros(1, 4)
    assert pairwise_iou(empty, empty).item() == 0
    assert pairwise_iou(empty, empty, eps=0, union_floor=1e-6).item() == 0
    assert pairwise_iou(empty, empty, eps=0).isnan().all()
