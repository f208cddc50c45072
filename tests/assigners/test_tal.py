"""Task-aligned assignment: invariants for any prediction, and cases worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from yolov6core.assigners.tal import TaskAlignedAssigner, top_of_each
from yolov6core.assigners.types import Assignment
from yolov6core.base.boxes import anchor_points

SIZE = (64, 96)
CLASSES = 3


def _batch(images: int = 3, boxes: int = 4, seed: int = 0) -> dict[str, Tensor]:
    """Random predictions around their anchors, and as many boxes in every image; one slot of the first is padding."""
    generator = torch.Generator().manual_seed(seed)
    points, strides = anchor_points(SIZE, (8, 16, 32))
    reach = (torch.rand(images, points.shape[0], 4, generator=generator) * 3 + 0.2) * strides
    corner = torch.rand(images, boxes, 2, generator=generator) * torch.tensor([60.0, 40])
    mask = torch.ones(images, boxes, dtype=torch.bool)
    mask[0, -1] = False
    return {
        "pred_scores": torch.rand(images, points.shape[0], CLASSES, generator=generator),
        "pred_boxes": torch.cat((points - reach[..., :2], points + reach[..., 2:]), dim=-1),
        "points": points,
        "gt_labels": torch.randint(0, CLASSES, (images, boxes), generator=generator),
        "gt_boxes": torch.cat((corner, corner + 8 + 30 * torch.rand(corner.shape, generator=generator)), dim=-1),
        "gt_mask": mask,
    }


def _same(a: Assignment, b: Assignment) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("labels", "boxes", "scores", "positive"))


def test_positive_anchors_copy_their_box_and_its_class() -> None:
    batch = _batch()
    found = TaskAlignedAssigner()(**batch)
    image, anchor = found.positive.nonzero(as_tuple=True)
    assert image.numel() > 0
    index = found.gt_index[image, anchor]
    assert batch["gt_mask"][image, index].all()
    assert torch.equal(found.boxes[image, anchor], batch["gt_boxes"][image, index])
    assert torch.equal(found.labels[image, anchor], batch["gt_labels"][image, index])
    assert torch.equal((found.scores > 0).sum(dim=-1), found.positive.long())
    assert found.scores.max() <= 1 + 1e-6
    background = ~found.positive
    assert (found.labels[background] == CLASSES).all()
    assert (found.gt_index[background] == -1).all()


def test_a_batch_is_its_images_one_by_one() -> None:
    batch = _batch()
    whole = TaskAlignedAssigner()(**batch)
    for image in range(3):
        single = {name: value if name == "points" else value[image : image + 1] for name, value in batch.items()}
        alone = TaskAlignedAssigner()(**single)
        assert torch.equal(alone.positive[0], whole.positive[image])
        torch.testing.assert_close(alone.scores[0], whole.scores[image])


def test_no_box_gets_more_than_topk_anchors_of_its_own_choice() -> None:
    batch = _batch(images=1, boxes=1)
    batch["gt_mask"][:] = True
    for topk in (1, 4):
        assert TaskAlignedAssigner(topk)(**batch).positive.sum() == topk


def test_fewer_anchors_than_topk_are_fine() -> None:
    points, _ = anchor_points((32, 32), (16,))
    whole = torch.tensor([[[0.0, 0, 32, 32]]])
    found = TaskAlignedAssigner(13)(
        torch.full((1, 4, 1), 0.5),
        whole.expand(1, 4, 4),
        points,
        torch.zeros(1, 1).long(),
        whole,
        torch.ones(1, 1).bool(),
    )
    assert found.positive.all()
    torch.testing.assert_close(found.scores, torch.ones(1, 4, 1))


@pytest.mark.parametrize("slots", [0, 2])
def test_no_boxes_at_all_is_background(slots: int) -> None:
    batch = _batch(boxes=2)
    batch = {name: value[:, :slots] if name.startswith("gt") else value for name, value in batch.items()}
    batch["gt_mask"] = torch.zeros(3, slots, dtype=torch.bool)
    found = TaskAlignedAssigner()(**batch)
    assert not found.positive.any() and not found.scores.any()


def test_contested_anchor_goes_to_the_box_it_overlaps_most() -> None:
    points = torch.tensor([[16.0, 16]])
    boxes = torch.tensor([[[0.0, 0, 60, 60], [4.0, 4, 28, 28]]])
    found = TaskAlignedAssigner()(
        torch.full((1, 1, 2), 0.5),
        torch.tensor([[[4.0, 4, 28, 30]]]),
        points,
        torch.tensor([[0, 1]]),
        boxes,
        torch.ones(1, 2).bool(),
    )
    assert found.gt_index.tolist() == [[1]]
    # one anchor: its alignment is its box's largest, so the target is the overlap
    assert found.scores[0, 0].tolist() == pytest.approx([0, 24 * 24 / (24 * 26)], abs=1e-4)


def test_equal_alignments_take_the_lower_anchor_and_repeat_exactly() -> None:
    batch = _batch(images=1, boxes=1)
    batch["gt_mask"][:] = True
    batch["gt_boxes"][:] = torch.tensor([0.0, 0, 96, 64])
    batch["pred_scores"].fill_(0.5)
    batch["pred_boxes"] = batch["gt_boxes"].expand_as(batch["pred_boxes"])
    found = TaskAlignedAssigner(5)(**batch)
    assert found.positive[0].nonzero().flatten().tolist() == [0, 1, 2, 3, 4]
    assert _same(found, TaskAlignedAssigner(5)(**batch))


def test_top_of_each_equals_a_sort_of_every_group() -> None:
    generator = torch.Generator().manual_seed(3)
    groups = torch.randint(0, 7, (200,), generator=generator).sort().values
    values = (torch.rand(200, generator=generator) * 20).round() / 20  # many ties, some zeros
    expected = set()
    for group in groups.unique().tolist():
        members = ((groups == group) & (values > 0)).nonzero().flatten().tolist()
        expected |= set(sorted(members, key=lambda i: (-values[i].item(), i))[:6])
    assert set(top_of_each(groups, values, 6).tolist()) == expected


def test_topk_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="topk is 0"):
        TaskAlignedAssigner(0)
