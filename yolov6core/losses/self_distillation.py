"""Self-distillation of YOLOv6 (2301.05586, section 2.3): a student learns from labels and from an equal teacher.

Letters: B images, A anchors, C classes, P positives, K = reg_max + 1 bins of a side's distance, M rows of targets.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from yolov6core.losses.detection import DetectionLoss, Positives
from yolov6core.losses.distill import channel_wise_kl, class_kl, distance_kl, fade


class SelfDistillationLoss:
    """The detection terms of the student, and the teacher's `distill_class`, `distill_dfl` and `distill_features`.

    All are unweighted float32 scalars, but the teacher's terms have the factor `fade(epoch, epochs)`: they fade while
    the student learns. A student that also predicts distances without bins (the head of small models, whose bins are
    dropped after training) adds their box loss as `direct_iou`.

    Averaging. By default `distill_class` is divided by the same sum of soft targets as the detection terms, and in
    `distill_dfl` every positive weighs its own soft target, so neither depends on batch or image size. YOLOv6 trained
    its models with `published_sums`: the class divergence is summed over all anchors and images, and the mean distance
    divergence is multiplied by the sum of the weights, so good and bad positives count alike.

    Classes are compared by the softmax of their scores, not of their logits. At a high temperature this is close to the
    squared difference of the scores; with logits, differences deep in the background would dominate.
    """

    def __init__(
        self, detection: DetectionLoss, *, epochs: int, temperature: float = 20.0, published_sums: bool = False
    ) -> None:
        """Make the loss.

        Args:
            detection: loss of the student's labels, with its bins and its assigners.
            epochs: of the whole training.
            temperature: of class and distance distributions; feature maps use 1.
            published_sums: see above.

        Raises:
            ValueError: `epochs` is less than 1.
        """
        if epochs < 1:
            raise ValueError(f"epochs is {epochs}; the teacher fades over at least 1")
        self.detection = detection
        self.epochs = epochs
        self.temperature = temperature
        self.published_sums = published_sums

    def __call__(
        self,
        student: Sequence[Tensor],
        teacher: Sequence[Tensor],
        targets: Tensor,
        *,
        image_size: tuple[int, int],
        epoch: int,
        maps: tuple[Sequence[Tensor], Sequence[Tensor]] | None = None,
    ) -> dict[str, Tensor]:
        """Terms of one batch.

        Args:
            student: class logits [B, A, C] and raw distances as of `DetectionLoss`; for the head of small models class
                logits, distances l, t, r, b [B, A, 4] in strides and distance logits [B, A, 4 * K].
            teacher: the same of the teacher, with or without the distances in the middle; without gradient.
            targets: rows [M, 6] (image, class, cx, cy, w, h as fractions of the image).
            image_size: (height, width) px.
            epoch: from 0.
            maps: feature maps [B, C, H, W] of student and teacher for `distill_features`, every level of the pyramid.
        """
        cls_logits, *direct, distances = (item.float() for item in student)
        teacher_logits, teacher_distances = teacher[0].float(), teacher[-1].float()
        _check_shapes((cls_logits, distances), (teacher_logits, teacher_distances))
        assigned = self.detection.assign(cls_logits, distances, targets, image_size=image_size, epoch=epoch)
        positives = self.detection.positives(assigned, image_size=image_size)
        terms = self.detection.terms(cls_logits, distances, assigned, positives)
        if direct:
            terms["direct_iou"] = self.detection.iou_term(direct[0].flatten(0, 1)[positives.index], positives)

        taught = {"distill_class": self._class_term(cls_logits, teacher_logits, positives)}
        if self.detection.reg_max:
            taught["distill_dfl"] = self._distance_term(distances, teacher_distances, positives)
        if maps is not None:
            taught["distill_features"] = channel_wise_kl(*maps)
        share = fade(epoch, self.epochs)
        return terms | {name: share * term for name, term in taught.items()}

    def _class_term(self, student: Tensor, teacher: Tensor, positives: Positives) -> Tensor:
        """Divergence of class logits [B, A, C]."""
        scores = [logits.sigmoid() for logits in (student, teacher)]
        if self.detection.num_classes == 1:  # over a single class every softmax is 1
            scores = [torch.cat((score, 1 - score), dim=-1) for score in scores]
        divergence = class_kl(*scores, temperature=self.temperature)
        return divergence if self.published_sums else divergence / positives.normaliser

    def _distance_term(self, student: Tensor, teacher: Tensor, positives: Positives) -> Tensor:
        """Divergence of distance logits [B, A, 4 * K] at the positives."""
        sides = (4, self.detection.reg_max + 1)
        pair = [item.flatten(0, 1)[positives.index].unflatten(-1, sides) for item in (student, teacher)]
        divergence = distance_kl(*pair, temperature=self.temperature)  # [P]
        if self.published_sums:
            divergence = divergence.sum() / max(divergence.numel(), 1)
        return (divergence * positives.weight).sum() / positives.normaliser


def _check_shapes(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor]) -> None:
    ours, theirs = ([tuple(item.shape) for item in pair] for pair in (student, teacher))
    if ours != theirs:
        raise ValueError(
            f"class logits and raw distances of the teacher have shapes {theirs}, of the student {ours}; "
            "self-distillation needs a teacher with the same anchors, classes and distance bins"
        )
