"""The training loss of a detector: assignment, then classification and box terms over the positives.

Letters: B images, A anchors, G ground truths of an image (padded), C classes, M rows of targets, P positives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from yolov6core.assigners.atss import AtssAssigner
from yolov6core.assigners.tal import TaskAlignedAssigner
from yolov6core.assigners.types import Assignment
from yolov6core.base.boxes import anchor_points, boxes_to_distances, cxcywh_to_xyxy, distances_to_boxes
from yolov6core.losses.functional import BOX_LOSSES, distribution_focal, expected_distances, varifocal


@dataclass(frozen=True)
class Positives:
    """Anchors of a batch that learn a ground truth; lengths are in strides of the anchor's level.

    index  [P] int64        place in the flattened batch of B * A anchors
    centre [P, 2] float32   x, y of the anchor point
    boxes  [P, 4] float32   ground truth, xyxy
    weight [P] float32      soft target
    normaliser [] float32   divisor of the sums of the batch
    """

    index: Tensor
    centre: Tensor
    boxes: Tensor
    weight: Tensor
    normaliser: Tensor


class DetectionLoss:
    """Unweighted terms `class`, `iou` and, with distance bins, `dfl`; each is a float32 scalar with gradient.

    All terms are divided by the sum of soft targets of the batch if it is above `divide_above`, else by 1. The default
    of 1 keeps them bounded while a fresh network overlaps hardly any box.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        strides: Sequence[int] = (8, 16, 32),
        iou_type: str = "siou",
        reg_max: int = 0,
        warmup_epochs: int = 0,
        tal: TaskAlignedAssigner | None = None,
        divide_above: float = 1.0,
    ) -> None:
        """Make the loss.

        Args:
            num_classes: C.
            strides: pixels per cell of each level.
            iou_type: key of `functional.BOX_LOSSES`.
            reg_max: 0 if the head gives distances; else it gives `reg_max + 1` logits per side.
            warmup_epochs: epochs 0 .. warmup_epochs - 1 use ATSS, later ones `tal`.
            tal: assigner after the warmup; None for the default.
            divide_above: smallest divisor of the terms.

        Raises:
            ValueError: unknown iou_type, no class, or a negative reg_max.
        """
        if iou_type not in BOX_LOSSES:
            raise ValueError(f"iou_type is {iou_type!r}; choose one of {', '.join(BOX_LOSSES)}")
        if num_classes < 1 or reg_max < 0:
            raise ValueError(f"num_classes is {num_classes} and reg_max {reg_max}; need at least 1 and 0")
        self.num_classes = num_classes
        self.strides = tuple(strides)
        self.iou_type = iou_type
        self.reg_max = reg_max
        self.warmup_epochs = warmup_epochs
        self.tal = tal or TaskAlignedAssigner()
        self.atss = AtssAssigner()
        self.divide_above = divide_above
        self.normalise_over(1, lambda scores: scores)

    def __call__(
        self, cls_logits: Tensor, distances: Tensor, targets: Tensor, *, image_size: tuple[int, int], epoch: int
    ) -> dict[str, Tensor]:
        """Terms of one batch.

        cls_logits [B, A, C]; distances [B, A, 4] l, t, r, b in strides, or [B, A, 4 * (reg_max + 1)] logits; targets
        [M, 6] rows (image in the batch, class, cx, cy, w, h as fractions of the image); image_size (height, width) px.
        """
        cls_logits, distances = cls_logits.float(), distances.float()
        assigned = self.assign(cls_logits, distances, targets, image_size=image_size, epoch=epoch)
        return self.terms(cls_logits, distances, assigned, self.positives(assigned, image_size=image_size))

    def with_direct(
        self,
        cls_logits: Tensor,
        direct: Tensor,
        distances: Tensor,
        targets: Tensor,
        *,
        image_size: tuple[int, int],
        epoch: int,
    ) -> dict[str, Tensor]:
        """The terms of the loss, and `direct_iou`: the box loss of plain distances `direct` [B, A, 4] in strides.

        This is for the head of small models (2301.05586, section 2.3). Labels are assigned by the bins.
        """
        cls_logits, direct, distances = cls_logits.float(), direct.float(), distances.float()
        assigned = self.assign(cls_logits, distances, targets, image_size=image_size, epoch=epoch)
        positives = self.positives(assigned, image_size=image_size)
        terms = self.terms(cls_logits, distances, assigned, positives)
        return terms | {"direct_iou": self.iou_term(direct.flatten(0, 1)[positives.index], positives)}

    def positives(self, assigned: Assignment, *, image_size: tuple[int, int]) -> Positives:
        """The positives of an assignment to the anchors of `image_size` (height, width) px."""
        index = assigned.positive.flatten().nonzero().squeeze(1)
        points, strides = anchor_points(image_size, self.strides, device=index.device)
        anchor = index % points.shape[0]
        return Positives(
            index=index,
            centre=points[anchor] / strides[anchor],
            boxes=assigned.boxes.flatten(0, 1)[index] / strides[anchor],
            weight=assigned.scores.flatten(0, 1)[index].sum(dim=-1),
            normaliser=self._normaliser(assigned.scores.sum()),
        )

    def normalise_over(self, processes: int, total: Callable[[Tensor], Tensor]) -> None:
        """From now on divide by the sum of soft targets over all processes, which share a batch in equal parts.

        The mean of terms and of gradients over the processes is then the result of one process with the whole batch.

        Args:
            processes: number of processes.
            total: sums a scalar over the processes, without gradient.
        """
        self.processes, self.total = processes, total

    def _normaliser(self, scores: Tensor) -> Tensor:
        scores = self.total(scores)
        return torch.where(scores > self.divide_above, scores, 1.0) / self.processes

    def terms(
        self, cls_logits: Tensor, distances: Tensor, assigned: Assignment, positives: Positives
    ) -> dict[str, Tensor]:
        """Terms of float32 outputs (see `__call__`) under a given assignment and its positives."""
        is_target = torch.zeros_like(assigned.scores, dtype=torch.bool)
        is_target.view(-1, self.num_classes)[positives.index, assigned.labels.flatten()[positives.index]] = True
        terms = {"class": varifocal(cls_logits, assigned.scores, is_target).sum() / positives.normaliser}

        raw = distances.flatten(0, 1)[positives.index]
        terms["iou"] = self.iou_term(expected_distances(raw) if self.reg_max else raw, positives)
        if self.reg_max:
            sides = boxes_to_distances(positives.centre, positives.boxes, self.reg_max - 0.01)
            focal = distribution_focal(raw.unflatten(-1, (4, self.reg_max + 1)), sides)
            terms["dfl"] = (focal * positives.weight).sum() / positives.normaliser
        return terms

    def iou_term(self, distances: Tensor, positives: Positives) -> Tensor:
        """Box loss of the positives' distances l, t, r, b [P, 4] in strides."""
        box_loss = BOX_LOSSES[self.iou_type](distances_to_boxes(positives.centre, distances), positives.boxes)
        return (box_loss * positives.weight).sum() / positives.normaliser

    @torch.no_grad()
    def assign(
        self, cls_logits: Tensor, distances: Tensor, targets: Tensor, *, image_size: tuple[int, int], epoch: int
    ) -> Assignment:
        """Targets of all anchors at this epoch; arguments as for the loss itself, no gradient."""
        points, strides = anchor_points(image_size, self.strides, device=cls_logits.device)
        self._check_shapes(cls_logits, distances, points.shape[0], image_size)
        truth = pad_targets(targets, batch=cls_logits.shape[0], image_size=image_size, num_classes=self.num_classes)
        decoded = expected_distances(distances) if self.reg_max else distances
        pred_boxes = distances_to_boxes(points, decoded * strides)
        scores = cls_logits.sigmoid()
        if epoch < self.warmup_epochs:
            return self.atss(scores, pred_boxes, points, *truth, strides=strides)
        return self.tal(scores, pred_boxes, points, *truth)

    def _check_shapes(self, cls_logits: Tensor, distances: Tensor, anchors: int, image_size: tuple[int, int]) -> None:
        expected = ((anchors, self.num_classes), (anchors, 4 * (self.reg_max + 1)))
        found = (tuple(cls_logits.shape[1:]), tuple(distances.shape[1:]))
        if found != expected:
            raise ValueError(
                f"class logits and distances have shapes [B, ...] {found}, but image size {image_size}, strides "
                f"{self.strides}, {self.num_classes} classes and reg_max {self.reg_max} need {expected}"
            )


def pad_targets(
    targets: Tensor, *, batch: int, image_size: tuple[int, int], num_classes: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Group rows [M, 6] (image, class, cx, cy, w, h as fractions) by image, in their order within each image.

    Returns: labels [B, G] int64, boxes [B, G, 4] float32 xyxy px, mask [B, G] bool; G is the largest count of an image.

    Raises:
        ValueError: an image or class is out of range.
    """
    targets = targets.float()
    image, label = targets[:, 0].long(), targets[:, 1].long()
    if targets.shape[0] and not bool(((image >= 0) & (image < batch) & (label >= 0) & (label < num_classes)).all()):
        raise ValueError(
            f"targets hold images {int(image.min())} .. {int(image.max())} and classes {int(label.min())} .. "
            f"{int(label.max())}; allowed are 0 .. {batch - 1} and 0 .. {num_classes - 1}"
        )
    counts = torch.bincount(image, minlength=batch)
    order = image.argsort(stable=True)
    image = image[order]
    start = counts.cumsum(0) - counts
    place = torch.arange(image.numel(), device=image.device) - start[image]
    mask = torch.arange(int(counts.max()), device=image.device) < counts[:, None]
    height, width = image_size
    scale = targets.new_tensor((width, height, width, height))
    boxes = targets.new_zeros(*mask.shape, 4)
    boxes[image, place] = cxcywh_to_xyxy(targets[order, 2:] * scale)
    labels = torch.zeros_like(mask, dtype=torch.int64)
    labels[image, place] = label[order]
    return labels, boxes, mask
