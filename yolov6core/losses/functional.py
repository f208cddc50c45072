"""Loss functions on tensors: no state, no reduction over boxes unless stated.

Letters: P pairs of prediction and target, K = reg_max + 1 bins of a side's distance.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def varifocal(logits: Tensor, targets: Tensor, positive: Tensor, *, alpha: float = 0.75, gamma: float = 2.0) -> Tensor:
    """Varifocal loss (2008.13367, equation 2), element by element.

    logits [...], targets [...] in 0 .. 1, positive [...] bool (the class is the anchor's target). Positives have their
    target as weight, the rest `alpha * score ** gamma`; the gradient also flows through the weight.

    Returns: [...] float32.
    """
    logits = logits.float()
    weight = torch.where(positive, targets, alpha * logits.sigmoid().pow(gamma))
    return weight * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def distribution_focal(logits: Tensor, distances: Tensor) -> Tensor:
    """Distribution focal loss (2006.04388, equation 6): cross entropy with the two bins around each distance.

    logits [P, 4, K]; distances [P, 4] in bins, 0 <= distance < K - 1.

    Returns: [P], mean over the four sides, float32.
    """
    left = distances.long()
    right_weight = distances - left
    log_probability = logits.float().log_softmax(dim=-1)
    pair = log_probability.gather(-1, torch.stack((left, left + 1), dim=-1))  # [P, 4, 2]
    return -(pair[..., 0] * (1 - right_weight) + pair[..., 1] * right_weight).mean(dim=-1)


def expected_distances(logits: Tensor) -> Tensor:
    """Mean distance in bins of each side's distribution: logits [..., 4 * K] to [..., 4] (2006.04388, equation 5)."""
    bins = logits.shape[-1] // 4
    probability = logits.unflatten(-1, (4, bins)).softmax(dim=-1)
    return probability @ torch.arange(bins, device=logits.device, dtype=probability.dtype)


class _Overlap:
    """Sizes and overlap of pred and target [P, 4] xyxy.

    `eps` is added to heights and union, not to widths. The recorded reference does so, and both agree on very small
    boxes too.
    """

    def __init__(self, pred: Tensor, target: Tensor, eps: float) -> None:
        self.eps = eps
        px1, py1, px2, py2 = pred.unbind(-1)
        tx1, ty1, tx2, ty2 = target.unbind(-1)
        self.pred_size = (px2 - px1, py2 - py1 + eps)
        self.target_size = (tx2 - tx1, ty2 - ty1 + eps)
        width = (torch.minimum(px2, tx2) - torch.maximum(px1, tx1)).clamp(min=0)
        height = (torch.minimum(py2, ty2) - torch.maximum(py1, ty1)).clamp(min=0)
        overlap = width * height
        self.union = self.pred_size[0] * self.pred_size[1] + self.target_size[0] * self.target_size[1] - overlap + eps
        self.iou = overlap / self.union
        hull_width = torch.maximum(px2, tx2) - torch.minimum(px1, tx1)
        hull_height = torch.maximum(py2, ty2) - torch.minimum(py1, ty1)
        self.hull = (hull_width, hull_height)
        self.shift = ((tx1 + tx2 - px1 - px2) / 2, (ty1 + ty2 - py1 - py2) / 2)

    def centre_penalty(self) -> Tensor:
        """Squared distance of the centres over squared diagonal of the enclosing box (DIoU, 1911.08287)."""
        diagonal = self.hull[0].square() + self.hull[1].square() + self.eps
        return (self.shift[0].square() + self.shift[1].square()) / diagonal


def iou_loss(pred: Tensor, target: Tensor, *, eps: float = 1e-10) -> Tensor:
    """1 - IoU of pred and target [P, 4] xyxy: [P]."""
    return 1 - _Overlap(pred, target, eps).iou


def giou_loss(pred: Tensor, target: Tensor, *, eps: float = 1e-10) -> Tensor:
    """1 - GIoU of pred and target [P, 4] xyxy: [P] in 0 .. 2 (1902.09630)."""
    pair = _Overlap(pred, target, eps)
    hull = pair.hull[0] * pair.hull[1] + eps
    return 1 - pair.iou + (hull - pair.union) / hull


def diou_loss(pred: Tensor, target: Tensor, *, eps: float = 1e-10) -> Tensor:
    """1 - DIoU of pred and target [P, 4] xyxy: [P] in 0 .. 2 (1911.08287)."""
    pair = _Overlap(pred, target, eps)
    return 1 - pair.iou + pair.centre_penalty()


def ciou_loss(pred: Tensor, target: Tensor, *, eps: float = 1e-10) -> Tensor:
    """1 - CIoU of pred and target [P, 4] xyxy: [P] (1911.08287, equations 8 to 11); the trade-off has no gradient."""
    pair = _Overlap(pred, target, eps)
    angle = torch.atan(pair.target_size[0] / pair.target_size[1]) - torch.atan(pair.pred_size[0] / pair.pred_size[1])
    aspect = 4 / math.pi**2 * angle.square()
    with torch.no_grad():
        # 1 - iou first: 1 + eps is 1 in float32, and identical boxes would give 0 / 0
        trade_off = aspect / (1 - pair.iou + aspect + eps)
    return 1 - pair.iou + pair.centre_penalty() + trade_off * aspect


def siou_loss(pred: Tensor, target: Tensor, *, eps: float = 1e-10) -> Tensor:
    """1 - SIoU of pred and target [P, 4] xyxy: [P] (2205.12740): overlap, angle-aware centre distance and shape."""
    pair = _Overlap(pred, target, eps)
    dx, dy = pair.shift[0] + eps, pair.shift[1] + eps
    # sin(2 * angle) of the line between the centres, without arc functions
    angle = 2 * (dx * dy).abs() / (dx.square() + dy.square())
    steepness = angle - 2
    distance = 2.0
    shape = 0.0
    for axis, shift in enumerate((dx, dy)):
        pred_size, target_size = pair.pred_size[axis], pair.target_size[axis]
        # the floors keep flat boxes finite and change no others
        distance = distance - torch.exp(steepness * (shift / pair.hull[axis].clamp(min=eps)).square())
        change = (pred_size - target_size).abs() / torch.maximum(pred_size, target_size).clamp(min=eps)
        shape = shape + (1 - torch.exp(-change)).pow(4)
    return 1 - pair.iou + (distance + shape) / 2


BOX_LOSSES: dict[str, Callable[..., Tensor]] = {
    "iou": iou_loss,
    "giou": giou_loss,
    "diou": diou_loss,
    "ciou": ciou_loss,
    "siou": siou_loss,
}
