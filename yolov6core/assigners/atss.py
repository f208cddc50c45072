"""Adaptive training sample selection: anchors near a box that overlap it more than usual (1912.02424, algorithm 1).

Letters: B images, A anchors, G ground truths of an image (padded), C classes, M real ground truths of the batch,
K candidates of a ground truth, P pairs of anchor and ground truth, U contested anchors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from yolov6core.assigners.matching import (
    GroundTruth,
    best_box,
    conflicted,
    empty_assignment,
    filled_assignment,
    settle,
)
from yolov6core.assigners.types import Assignment
from yolov6core.base.boxes import box_iou, pairwise_iou

UNION_FLOOR = 1e-6  # px^2


class AtssAssigner:
    """Adaptive selection of positive anchors.

    On every level the `topk` anchors nearest to the centre of a box are its candidates. A candidate is positive if its
    centre lies in the box and its square overlaps the box by more than mean plus standard deviation of all candidates.
    An anchor chosen by several boxes goes to the box of the image that its square overlaps most. A level with fewer
    than `topk` cells gives all of them. Of equal distances, the lower anchor index wins.
    """

    def __init__(self, topk: int = 9, *, cell_size: float = 5.0, soft_labels: bool = True) -> None:
        """Make the assigner.

        Args:
            topk: candidates per box and level.
            cell_size: side of the anchor squares in strides.
            soft_labels: whether targets are the overlap of prediction and ground truth, instead of 1.

        Raises:
            ValueError: `topk` is less than 1.
        """
        if topk < 1:
            raise ValueError(f"topk is {topk}, but every level needs at least 1 candidate")
        self.topk = topk
        self.cell_size = cell_size
        self.soft_labels = soft_labels

    @torch.no_grad()
    def __call__(
        self,
        pred_scores: Tensor,
        pred_boxes: Tensor,
        points: Tensor,
        gt_labels: Tensor,
        gt_boxes: Tensor,
        gt_mask: Tensor,
        *,
        strides: Tensor,
    ) -> Assignment:
        """Assign predictions at points [A, 2] px with strides [A, 1] px, in the order of `boxes.anchor_points`.

        Of pred_scores [B, A, C] only the shape is used; pred_boxes [B, A, 4] xyxy px make the soft labels. Ground truth
        is gt_labels [B, G] int64, gt_boxes [B, G, 4] xyxy px, gt_mask [B, G] bool (False: padding).
        """
        batch, anchors, classes = pred_scores.shape
        truth = GroundTruth(gt_labels, gt_boxes.to(pred_boxes.dtype), gt_mask)
        real = gt_mask.flatten().nonzero().squeeze(1)  # [M]
        if real.numel() == 0:
            return empty_assignment(batch, anchors, classes, pred_scores.device)

        half = strides * (self.cell_size / 2)
        squares = torch.cat((points - half, points + half), dim=1)  # [A, 4]
        boxes = truth.boxes.flatten(0, 1)[real]
        candidates = self._nearest(points, strides, boxes)  # [M, K]
        row, column = _above_threshold(points, squares, boxes, candidates).nonzero(as_tuple=True)
        box_ids = real[row]
        anchor_ids = box_ids // gt_mask.shape[1] * anchors + candidates[row, column]

        contested = conflicted(anchor_ids, batch * anchors)
        rivals = truth.boxes[contested // anchors]  # [U, G, 4]
        overlaps = pairwise_iou(squares[contested % anchors, None], rivals, eps=0.0, union_floor=UNION_FLOOR).squeeze(1)
        winners = best_box(overlaps, contested, truth, anchors)
        anchor_ids, box_ids = settle(anchor_ids, box_ids, contested, winners, batch * anchors)

        quality = torch.ones_like(anchor_ids, dtype=torch.float32)
        if self.soft_labels:
            quality = box_iou(truth.of_anchors(box_ids)[1], pred_boxes.reshape(-1, 4)[anchor_ids])
        return filled_assignment(anchor_ids, box_ids, quality, truth, shape=(batch, anchors, classes))

    def _nearest(self, points: Tensor, strides: Tensor, boxes: Tensor) -> Tensor:
        """Anchor indices [M, K] of the candidates of boxes [M, 4], level after level."""
        per_level = torch.unique_consecutive(strides.flatten(), return_counts=True)[1].tolist()
        x, y = ((boxes[:, :2] + boxes[:, 2:]) / 2).unbind(1)
        candidates, start = [], 0
        for level in points.split(per_level):
            squared = (x[:, None] - level[:, 0]).square_() + (y[:, None] - level[:, 1]).square_()  # [M, cells]
            candidates.append(smallest(squared, min(self.topk, level.shape[0])) + start)
            start += level.shape[0]
        return torch.cat(candidates, dim=1)


def smallest(values: Tensor, count: int) -> Tensor:
    """Column indices [M, count], ascending, of the smallest values [M, N] of each row; of equals the lower index.

    The choice of `topk` among equal values is not defined.
    """
    border = values.topk(count, dim=1, largest=False).values.amax(dim=1, keepdim=True)
    below = values < border
    equal = values == border
    room = count - below.sum(dim=1, keepdim=True)
    chosen = below | (equal & (equal.cumsum(dim=1) <= room))
    return chosen.nonzero()[:, 1].view(-1, count)


def _above_threshold(points: Tensor, squares: Tensor, boxes: Tensor, candidates: Tensor) -> Tensor:
    """Whether candidates [M, K] overlap their box [M, 4] more than mean + deviation and have their centre inside."""
    overlaps = box_iou(boxes[:, None], squares[candidates], eps=0.0, union_floor=UNION_FLOOR)  # [M, K]
    mean = overlaps.mean(dim=1, keepdim=True)
    degrees = max(overlaps.shape[1] - 1, 1)  # a single candidate has deviation 0, not 0 / 0
    deviation = ((overlaps - mean).square().sum(dim=1, keepdim=True) / degrees).sqrt()
    centre = points[candidates]  # [M, K, 2]
    inside = ((centre > boxes[:, None, :2]) & (centre < boxes[:, None, 2:])).all(dim=-1)
    return inside & (overlaps > mean + deviation)
