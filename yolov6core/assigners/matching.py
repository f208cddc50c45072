"""Common steps of both assigners. They use lists of pairs, because few of all B x G x A pairs are candidates.

Letters: B images, A anchors, G ground truths of an image (padded), C classes, M real ground truths of the batch,
P pairs of anchor and ground truth, U contested anchors, S settled pairs.
An "anchor id" is image * A + anchor, a "box id" is image * G + ground truth: both index the flattened batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from yolov6core.assigners.types import Assignment


@dataclass(frozen=True)
class GroundTruth:
    """Padded ground truth of a batch: labels [B, G] int64, boxes [B, G, 4] float32 xyxy px, mask [B, G] bool (real)."""

    labels: Tensor
    boxes: Tensor
    mask: Tensor

    def of_anchors(self, box_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Labels [P] and boxes [P, 4] of the given box ids [P]."""
        return self.labels.flatten()[box_ids], self.boxes.flatten(0, 1)[box_ids]


def points_inside(points: Tensor, boxes: Tensor) -> Tensor:
    """Whether points [A, 2] lie strictly inside boxes [M, 4]: [M, A] bool."""
    x, y = points[:, 0], points[:, 1]
    left, top, right, bottom = boxes[:, :, None].unbind(1)  # each [M, 1]
    return (x > left) & (x < right) & (y > top) & (y < bottom)


def conflicted(anchor_ids: Tensor, total: int) -> Tensor:
    """Anchor ids that occur more than once among [P], ascending: [U] int64. `total` is B * A."""
    return (torch.bincount(anchor_ids, minlength=total) > 1).nonzero().squeeze(1)


def settle(
    anchor_ids: Tensor, box_ids: Tensor, contested: Tensor, winners: Tensor, total: int
) -> tuple[Tensor, Tensor]:
    """One box for every chosen anchor: the winner [U] of a contested anchor [U], else the box that chose it.

    Returns: anchor ids ascending and their box ids, both [S] int64.
    """
    owner = torch.full((total,), -1, dtype=torch.int64, device=anchor_ids.device)
    owner[anchor_ids] = box_ids  # contested anchors get an arbitrary entry; the next line replaces it
    owner[contested] = winners
    chosen = (owner >= 0).nonzero().squeeze(1)
    return chosen, owner[chosen]


def best_box(overlaps: Tensor, contested: Tensor, truth: GroundTruth, anchors: int) -> Tensor:
    """Box ids [U] of highest overlap [U, G] among all boxes of each contested anchor's image, the first of equals."""
    groups = truth.mask.shape[1]
    images = contested // anchors
    return images * groups + overlaps.masked_fill(~truth.mask[images], -1.0).argmax(dim=1)


def empty_assignment(batch: int, anchors: int, classes: int, device: torch.device) -> Assignment:
    """All background."""
    return Assignment(
        labels=torch.full((batch, anchors), classes, dtype=torch.int64, device=device),
        boxes=torch.zeros(batch, anchors, 4, device=device),
        scores=torch.zeros(batch, anchors, classes, device=device),
        positive=torch.zeros(batch, anchors, dtype=torch.bool, device=device),
        gt_index=torch.full((batch, anchors), -1, dtype=torch.int64, device=device),
    )


def filled_assignment(
    anchor_ids: Tensor, box_ids: Tensor, quality: Tensor, truth: GroundTruth, *, shape: tuple[int, int, int]
) -> Assignment:
    """Write the settled pairs [S] into tensors of shape (B, A, C); quality [S]: the soft targets."""
    batch, anchors, classes = shape
    result = empty_assignment(batch, anchors, classes, truth.boxes.device)
    labels, boxes = truth.of_anchors(box_ids)
    result.labels.view(-1)[anchor_ids] = labels
    result.boxes.view(-1, 4)[anchor_ids] = boxes
    result.scores.view(-1, classes)[anchor_ids, labels] = quality.float()
    result.positive.view(-1)[anchor_ids] = True
    result.gt_index.view(-1)[anchor_ids] = box_ids % truth.mask.shape[1]
    return result
