"""The decoupled head without anchors, and the one place where its raw output becomes boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from yolov6core.boxes import anchor_points, distances_to_boxes
from yolov6core.models.blocks import ConvBNAct

PRIOR = 0.01
"""Score that every anchor starts with, so that background does not drown the first steps (RetinaNet, 1708.02002)."""


class DecoupledHead(nn.Module):
    """Per level: a shared stem, then one convolution and one prediction layer for classes and for box distances."""

    def __init__(self, *, inputs: Sequence[int], num_classes: int, reg_max: int = 0) -> None:
        super().__init__()
        sides = 4 * (reg_max + 1)
        self.stems = nn.ModuleList(ConvBNAct(c, c, kernel=1, act=nn.SiLU) for c in inputs)
        self.cls_convs = nn.ModuleList(ConvBNAct(c, c, act=nn.SiLU) for c in inputs)
        self.reg_convs = nn.ModuleList(ConvBNAct(c, c, act=nn.SiLU) for c in inputs)
        self.cls_preds = nn.ModuleList(nn.Conv2d(c, num_classes, 1) for c in inputs)
        self.reg_preds = nn.ModuleList(nn.Conv2d(c, sides, 1) for c in inputs)
        for cls_pred, reg_pred in zip(self.cls_preds, self.reg_preds, strict=True):
            # Small weights rather than zeros: with zeros all anchors tie and the first assignment is an accident.
            nn.init.normal_(cls_pred.weight, std=0.01)
            nn.init.constant_(cls_pred.bias, -math.log((1 - PRIOR) / PRIOR))
            nn.init.normal_(reg_pred.weight, std=0.01)
            nn.init.constant_(reg_pred.bias, 1.0)

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Neck maps to class logits [B, A, C] and distances l, t, r, b in stride units [B, A, 4].

        With `reg_max` > 0 the distances are logits of reg_max + 1 bins per side [B, A, 4 * (reg_max + 1)].
        """
        logits, distances = [], []
        for level, x in enumerate(maps):
            x = self.stems[level](x)
            logits.append(self.cls_preds[level](self.cls_convs[level](x)).flatten(2))
            distances.append(self.reg_preds[level](self.reg_convs[level](x)).flatten(2))
        return torch.cat(logits, dim=2).transpose(1, 2), torch.cat(distances, dim=2).transpose(1, 2)


def decode(
    cls_logits: Tensor, distances: Tensor, *, image_size: tuple[int, int], strides: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Raw head output to boxes and scores.

    Args:
        cls_logits: [B, A, C].
        distances: [B, A, 4] in stride units, or [B, A, 4 * bins] logits, whose expectation is taken (GFL, 2006.04388).
        image_size: (height, width) of the network input, multiples of the largest stride.
        strides: pixels per cell of each level.

    Returns: boxes [B, A, 4] xyxy in pixels of the network input, scores [B, A, C] in 0..1.
    """
    points, stride = anchor_points(image_size, strides, device=distances.device, dtype=distances.dtype)
    if distances.shape[-1] > 4:
        batch, anchors, sides = distances.shape
        probability = distances.reshape(batch, anchors, 4, sides // 4).softmax(dim=-1)
        distances = probability @ torch.arange(sides // 4, device=distances.device, dtype=distances.dtype)
    return distances_to_boxes(points, distances * stride), cls_logits.sigmoid()
