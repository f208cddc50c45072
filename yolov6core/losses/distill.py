"""Distillation terms: pure functions on outputs and feature maps of student and teacher, without labels.

The teacher's tensors are constants: no gradient flows into them.

Letters: B images, A anchors, C classes or channels, P anchors with a weight, K = reg_max + 1 bins of a side's distance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from yolov6core.losses.functional import expected_distances, giou_loss


def _kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL divergence of softmax(student / T) from softmax(teacher / T) over the last dimension, times T^2, per element.

    The factor keeps the size of the gradient at every temperature (1503.02531, section 2).
    """
    _check_temperature(temperature)
    log_student = (student / temperature).log_softmax(dim=-1)
    log_teacher = (teacher.detach() / temperature).log_softmax(dim=-1)
    return F.kl_div(log_student, log_teacher, reduction="none", log_target=True) * temperature**2


def _check_temperature(temperature: float) -> None:
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}; it has to be positive")


def class_kl(student: Tensor, teacher: Tensor, *, temperature: float = 20.0) -> Tensor:
    """KL divergence over the classes of [..., C], summed over all elements: it grows with batch and image size.

    YOLOv6 (2301.05586) passes scores after the sigmoid. Logits work as well if student and teacher differ by less than
    80 temperatures. Raises ValueError for a temperature that is not positive.
    """
    _check_temperature(temperature)
    # With g = (student - teacher) / T less its mean under the teacher, KL is log(1 + E[exp(g) - 1 - g]). At temperature
    # 20 all classes are alike, and a difference of logarithms would lose four of float32's digits.
    student, teacher = student.float(), teacher.detach().float()
    probability = (teacher / temperature).softmax(dim=-1)
    gap = (student - teacher) / temperature
    gap = gap - (probability * gap).sum(dim=-1, keepdim=True)
    return (probability * (gap.expm1() - gap)).sum(dim=-1).log1p().sum() * temperature**2


def distance_kl(student: Tensor, teacher: Tensor, *, temperature: float = 20.0) -> Tensor:
    """KL divergence of distance distributions [P, 4, K], mean over the four sides: [P] (2301.05586)."""
    return _kl(student.float(), teacher.float(), temperature).sum(dim=-1).mean(dim=-1)


def channel_wise_kl(student: Sequence[Tensor], teacher: Sequence[Tensor], *, temperature: float = 1.0) -> Tensor:
    """Channel-wise distillation (2011.13256): every channel is a distribution over its positions.

    student and teacher: maps [B, C, H, W], pairwise of one shape. Mean over images and channels, summed over the maps.
    Raises ValueError if the shapes differ.
    """
    shapes = [tuple(item.shape) for item in student], [tuple(item.shape) for item in teacher]
    if not student or shapes[0] != shapes[1]:
        raise ValueError(f"student maps {shapes[0]} and teacher maps {shapes[1]} have to pair up, shape by shape")
    terms = [
        _kl(ours.float().flatten(2), theirs.float().flatten(2), temperature).sum() / (ours.shape[0] * ours.shape[1])
        for ours, theirs in zip(student, teacher, strict=True)
    ]
    return torch.stack(terms).sum()


def fade(epoch: int, epochs: int, *, end: float = 0.01) -> float:
    """Weight of the teacher's terms: cosine from 1 at epoch 0 to `end` at epoch `epochs` (2301.05586)."""
    return 1 + (end - 1) * (1 - math.cos(math.pi * epoch / epochs)) / 2


def plain_output_distillation(
    student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], *, temperature: float = 1.0
) -> dict[str, Tensor]:
    """Match raw outputs (class logits [B, A, C], distances [B, A, 4] in strides) with the teacher's at every anchor.

    It needs no labels and no distance bins. `distill_class` is the KL divergence of the independent class probabilities
    at `temperature`, times temperature^2. `distill_box` is 1 - GIoU of the two boxes at an anchor, weighted by the
    teacher's best score, because boxes of background anchors have no meaning. Both are divided by the sum of that score
    over the batch (at least 1), so they do not grow with batch or image size.

    Returns: {"distill_class", "distill_box"}, float32 scalars.
    """
    cls_logits, distances = (item.float() for item in student)
    teacher_logits, teacher_distances = (item.detach().float() for item in teacher)
    confidence = teacher_logits.sigmoid().amax(dim=-1)  # [B, A]
    normaliser = confidence.sum().clamp(min=1)
    target = teacher_logits / temperature
    probability = target.sigmoid()
    cross = F.binary_cross_entropy_with_logits(cls_logits / temperature, probability, reduction="sum")
    entropy = F.binary_cross_entropy_with_logits(target, probability, reduction="sum")
    outward = distances.new_tensor((-1.0, -1.0, 1.0, 1.0))  # boxes around an anchor at the origin
    box_loss = giou_loss(distances * outward, teacher_distances * outward)
    return {
        "distill_class": (cross - entropy) * temperature**2 / normaliser,
        "distill_box": (box_loss * confidence).sum() / normaliser,
    }


def output_distillation(
    student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], *, temperature: float
) -> dict[str, Tensor]:
    """`plain_output_distillation` of raw outputs; for distance bins it uses their means and adds `distill_dfl`.

    student, teacher: class logits [B, A, C], and distances [B, A, 4] in strides or logits [B, A, 4 * K] of K bins.
    `distill_dfl` is the KL divergence of the bins, weighted like the boxes by the teacher's best score at each anchor.
    """
    if student[1].shape[-1] == 4:
        return plain_output_distillation(student, teacher, temperature=temperature)
    means = [(logits, expected_distances(bins.float())) for logits, bins in (student, teacher)]
    terms = plain_output_distillation(*means, temperature=temperature)
    pair = [bins.flatten(0, 1).unflatten(-1, (4, -1)) for _, bins in (student, teacher)]  # [B * A, 4, K]
    confidence = teacher[0].float().sigmoid().amax(dim=-1).flatten()  # [B * A]
    divergence = distance_kl(*pair, temperature=temperature)
    return terms | {"distill_dfl": (divergence * confidence).sum() / confidence.sum().clamp(min=1)}
