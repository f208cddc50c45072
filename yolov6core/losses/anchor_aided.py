"""Loss of the anchor-based branch that helps a network while it trains and is dropped afterwards (2301.05586).

Letters: B images, A anchor points of the network, N anchors per point, C classes, M rows of targets.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from yolov6core.assigners.tal import TaskAlignedAssigner
from yolov6core.assigners.types import Assignment
from yolov6core.losses.detection import DetectionLoss


class AnchorAidedLoss:
    """Unweighted terms `class` and `iou` of the anchor-based branch, added to the terms of the anchor-free branch.

    On every level the grid of points is repeated, once for each anchor of a point. The assignment is task-aligned from
    the first epoch, with more candidates per box.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        anchors: int = 3,
        strides: Sequence[int] = (8, 16, 32),
        iou_type: str = "siou",
        topk: int = 26,
        divide_above: float = 1.0,
    ) -> None:
        """Make the loss.

        Args:
            num_classes: C.
            anchors: per point (N).
            strides: pixels per cell of each level.
            iou_type: key of `functional.BOX_LOSSES`.
            topk: candidates per box.
            divide_above: see `DetectionLoss`. YOLOv6 divides the terms of this branch by any sum of soft targets above
                0, so its background term explodes while the branch is bad.

        Raises:
            ValueError: `anchors` is less than 1.
        """
        if anchors < 1:
            raise ValueError(f"anchors is {anchors}; the branch needs at least 1 per point")
        self.detection = DetectionLoss(
            num_classes=num_classes,
            strides=[stride for stride in strides for _ in range(anchors)],
            iou_type=iou_type,
            tal=TaskAlignedAssigner(topk),
            divide_above=divide_above,
        )

    def __call__(
        self, cls_logits: Tensor, boxes: Tensor, targets: Tensor, *, image_size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Terms of one batch.

        cls_logits [B, N * A, C]; boxes [B, N * A, 4]: offset x, y of the centre from the anchor point, width and
        height, in strides; targets and image_size: see `DetectionLoss`.
        """
        return self.detection(cls_logits, offsets_to_distances(boxes.float()), targets, image_size=image_size, epoch=0)

    def assign(self, cls_logits: Tensor, boxes: Tensor, targets: Tensor, *, image_size: tuple[int, int]) -> Assignment:
        """Targets of all anchors; arguments as for the loss itself, no gradient."""
        distances = offsets_to_distances(boxes.float())
        return self.detection.assign(cls_logits.float(), distances, targets, image_size=image_size, epoch=0)


def offsets_to_distances(boxes: Tensor) -> Tensor:
    """Centre offset from a point and size [..., 4] to distances l, t, r, b [..., 4] from the point to the sides."""
    offset, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((half - offset, half + offset), dim=-1)
