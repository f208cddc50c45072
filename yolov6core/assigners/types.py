"""The result of an assigner."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Assignment:
    """One ground truth, or none, for every anchor. B images, A anchors, C classes.

    labels   [B, A] int64      class index; C where the anchor is background
    boxes    [B, A, 4] float32 xyxy, pixels of the network input; zeros where background
    scores   [B, A, C] float32 soft class target in 0 .. 1; zeros where background
    positive [B, A] bool       the anchor learns a ground truth
    gt_index [B, A] int64      row of the ground truth in its image; -1 where background
    """

    labels: Tensor
    boxes: Tensor
    scores: Tensor
    positive: Tensor
    gt_index: Tensor
