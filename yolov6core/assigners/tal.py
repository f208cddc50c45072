"""Task-aligned assignment: anchors learn the boxes that they predict best (TOOD, 2108.07755, section 3.2).

Letters: B images, A anchors, G ground truths of an image (padded), C classes, M real ground truths of the batch,
P pairs of anchor and ground truth, U contested anchors.
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
    points_inside,
    settle,
)
from yolov6core.assigners.types import Assignment
from yolov6core.base.boxes import box_iou, pairwise_iou

EPS = 1e-9


class TaskAlignedAssigner:
    """Choose for every box the `topk` anchors inside it of highest alignment `score ** alpha * iou ** beta`.

    An anchor chosen by several boxes goes to the box of the image that it overlaps most. Anchors of alignment 0 are
    never chosen: their soft target would be 0. Of equal alignments, the lower anchor index wins.
    """

    def __init__(self, topk: int = 13, alpha: float = 1.0, beta: float = 6.0) -> None:
        if topk < 1:
            raise ValueError(f"topk is {topk}, but every box needs at least 1 candidate")
        self.topk = topk
        self.alpha = alpha
        self.beta = beta

    @torch.no_grad()
    def __call__(
        self,
        pred_scores: Tensor,
        pred_boxes: Tensor,
        points: Tensor,
        gt_labels: Tensor,
        gt_boxes: Tensor,
        gt_mask: Tensor,
    ) -> Assignment:
        """Assign pred_scores [B, A, C] (after sigmoid) and pred_boxes [B, A, 4] xyxy px, predicted at points [A, 2] px.

        Ground truth is gt_labels [B, G] int64, gt_boxes [B, G, 4] xyxy px, gt_mask [B, G] bool (False: padding).
        """
        batch, anchors, classes = pred_scores.shape
        truth = GroundTruth(gt_labels, gt_boxes.to(pred_boxes.dtype), gt_mask)
        box_ids, anchor_ids = _inside_pairs(points, truth)
        if box_ids.numel() == 0:
            return empty_assignment(batch, anchors, classes, pred_scores.device)

        flat_boxes = pred_boxes.reshape(-1, 4)
        alignment, _ = self._alignment(pred_scores, flat_boxes, truth, anchor_ids, box_ids)
        keep = top_of_each(box_ids, alignment, self.topk)
        box_ids, anchor_ids = box_ids[keep], anchor_ids[keep]

        contested = conflicted(anchor_ids, batch * anchors)
        rivals = truth.boxes[contested // anchors]  # [U, G, 4]
        winners = best_box(pairwise_iou(flat_boxes[contested, None], rivals).squeeze(1), contested, truth, anchors)
        anchor_ids, box_ids = settle(anchor_ids, box_ids, contested, winners, batch * anchors)

        alignment, overlap = self._alignment(pred_scores, flat_boxes, truth, anchor_ids, box_ids)
        quality = _normalised(alignment, overlap, box_ids, gt_mask.numel())
        return filled_assignment(anchor_ids, box_ids, quality, truth, shape=(batch, anchors, classes))

    def _alignment(
        self, pred_scores: Tensor, flat_boxes: Tensor, truth: GroundTruth, anchor_ids: Tensor, box_ids: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Alignment [P] and overlap [P] of the given pairs."""
        labels, boxes = truth.of_anchors(box_ids)
        scores = pred_scores.flatten()[anchor_ids * pred_scores.shape[-1] + labels]
        overlap = box_iou(boxes, flat_boxes[anchor_ids], eps=EPS)
        return scores.pow(self.alpha) * overlap.pow(self.beta), overlap


def _inside_pairs(points: Tensor, truth: GroundTruth) -> tuple[Tensor, Tensor]:
    """Box ids and anchor ids [P] of all pairs whose anchor point lies in the box, by box id, then by anchor."""
    real = truth.mask.flatten().nonzero().squeeze(1)  # [M]
    row, anchor = points_inside(points, truth.boxes.flatten(0, 1)[real]).nonzero(as_tuple=True)
    box_ids = real[row]
    return box_ids, box_ids // truth.mask.shape[1] * points.shape[0] + anchor


def top_of_each(groups: Tensor, values: Tensor, count: int) -> Tensor:
    """Positions of the `count` highest positive values [P] of every group [P]; of equals the earlier one.

    One integer sort is enough: positive float32 values order like their bit patterns, so group and value fit one int64.
    """
    positions = (values > 0).nonzero().squeeze(1)
    groups = groups[positions]
    bits = values[positions].float().view(torch.int32).long()
    order = ((groups << 32) - bits).sort(stable=True).indices
    groups, positions = groups[order], positions[order]
    first = torch.searchsorted(groups, groups)  # start of each element's group
    rank = torch.arange(groups.numel(), device=groups.device) - first
    return positions[rank < count]


def _normalised(alignment: Tensor, overlap: Tensor, box_ids: Tensor, boxes: int) -> Tensor:
    """Scale alignments [P] so that each box's largest equals its largest overlap (section 3.2, "normalized t")."""
    top_alignment = alignment.new_zeros(boxes).scatter_reduce_(0, box_ids, alignment, "amax")
    top_overlap = overlap.new_zeros(boxes).scatter_reduce_(0, box_ids, overlap, "amax")
    return alignment * top_overlap[box_ids] / (top_alignment[box_ids] + EPS)
