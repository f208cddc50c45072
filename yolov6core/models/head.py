"""The decoupled anchor-free head, its auxiliary heads for training, and the only place where raw output becomes boxes.

Letters: B images, A anchor points, C classes, L pyramid levels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from yolov6core.base.boxes import anchor_points, distances_to_boxes

PRIOR = 0.01
"""Initial score of every anchor, so that background does not dominate the first steps (RetinaNet, 1708.02002)."""

AUX_REG_MAX = 16
"""Last distance bin, in strides, of the auxiliary head of distributions (2301.05586, section 2.3)."""


class Features(NamedTuple):
    """Inputs of the prediction layers, one map [B, C_l, H_l, W_l] of each kind per level."""

    stem: tuple[Tensor, ...]
    cls: tuple[Tensor, ...]
    reg: tuple[Tensor, ...]


class DecoupledHead(nn.Module):
    """Per level: a shared stem, then one unit and one prediction layer for classes and for box distances."""

    def __init__(
        self,
        *,
        inputs: Sequence[int],
        num_classes: int,
        stem: Callable[[int, int], nn.Module],
        unit: Callable[[int, int], nn.Module],
        reg_max: int = 0,
        aux_head: nn.Module | None = None,
    ) -> None:
        """stem, unit: made of (in_channels, out_channels); aux_head: additional prediction in training."""
        super().__init__()
        self.stems = nn.ModuleList(stem(c, c) for c in inputs)
        self.cls_convs = nn.ModuleList(unit(c, c) for c in inputs)
        self.reg_convs = nn.ModuleList(unit(c, c) for c in inputs)
        self.cls_preds = class_layers(inputs, num_classes)
        self.reg_preds = distance_layers(inputs, 4 * (reg_max + 1))
        self.aux_head = aux_head

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Neck maps to class logits [B, A, C] and distances l, t, r, b in stride units [B, A, 4].

        With `reg_max` > 0 the distances are logits of reg_max + 1 bins per side [B, A, 4 * (reg_max + 1)].
        """
        return self.predict(self.features(maps))

    def features(self, maps: tuple[Tensor, ...]) -> Features:
        """Neck maps to the inputs of the prediction layers."""
        stem = tuple(layer(x) for layer, x in zip(self.stems, maps, strict=True))
        cls = tuple(layer(x) for layer, x in zip(self.cls_convs, stem, strict=True))
        return Features(stem, cls, tuple(layer(x) for layer, x in zip(self.reg_convs, stem, strict=True)))

    def predict(self, features: Features) -> tuple[Tensor, Tensor]:
        """Inputs of the prediction layers to the result of `forward`."""
        return per_anchor(self.cls_preds, features.cls), per_anchor(self.reg_preds, features.reg)


class AnchorHead(nn.Module):
    """Anchor-aided training (2301.05586, section 2.2): an anchor-based head beside the anchor-free one."""

    anchors: Tensor

    def __init__(
        self, *, inputs: Sequence[int], num_classes: int, anchors: Sequence[Sequence[int]], strides: Sequence[int]
    ) -> None:
        """anchors: per level (width, height, width, ...) in pixels."""
        super().__init__()
        if len(anchors) != len(inputs):
            raise ValueError(
                f"anchor-aided training needs anchors for {len(inputs)} levels, the variant has them for "
                f"{len(anchors)}; choose aux_head 'none' or a variant with three levels"
            )
        # On the CPU even where the network is built on `meta`: no file brings the values.
        sizes = torch.tensor(anchors, dtype=torch.float32, device="cpu").unflatten(1, (-1, 2))  # [L, N, 2]
        strides_of_level = torch.tensor(strides, device="cpu")[:, None, None]
        self.register_buffer("anchors", sizes / strides_of_level, persistent=False)
        count = sizes.shape[1]
        self.cls_preds = class_layers(inputs, count * num_classes)
        self.reg_preds = distance_layers(inputs, count * 4)

    def forward(self, features: Features) -> tuple[Tensor, Tensor]:
        """Class logits [B, N * A, C] and boxes [B, N * A, 4]: centre offset x, y from the anchor point, width, height.

        Boxes are in stride units. Levels come one after the other; inside a level the grid is repeated for each of its
        N anchors.
        """
        logits, boxes = [], []
        for level, anchors in enumerate(self.anchors):
            logits.append(_by_anchor(self.cls_preds[level](features.cls[level]), len(anchors)))
            raw = _by_anchor(self.reg_preds[level](features.reg[level]), len(anchors))
            cells = raw.shape[1] // len(anchors)
            size = (2 * raw[..., 2:].sigmoid()) ** 2 * anchors.repeat_interleave(cells, dim=0)
            boxes.append(torch.cat((raw[..., :2], size), dim=-1))
        return torch.cat(logits, dim=1), torch.cat(boxes, dim=1)

    def deployed(self) -> None:
        """None: inference uses the anchor-free head only."""


class DistributionHead(nn.Module):
    """Distance bins beside plain distances, for the distillation of small networks; inference does without them.

    2301.05586, section 2.3: decoupled localization distillation.
    """

    def __init__(self, *, inputs: Sequence[int], reg_max: int = AUX_REG_MAX) -> None:
        super().__init__()
        self.reg_preds = distance_layers(inputs, 4 * (reg_max + 1))

    def forward(self, features: Features) -> Tensor:
        """Logits [B, A, 4 * (reg_max + 1)] of each side's bins."""
        return per_anchor(self.reg_preds, features.reg)

    def deployed(self) -> None:
        """None: inference uses plain distances only."""


def class_layers(inputs: Sequence[int], outputs: int) -> nn.ModuleList:
    """One prediction layer per level whose scores start at `PRIOR`."""
    return _prediction_layers(inputs, outputs, start=-math.log((1 - PRIOR) / PRIOR))


def distance_layers(inputs: Sequence[int], outputs: int) -> nn.ModuleList:
    """One prediction layer per level whose outputs start at 1."""
    return _prediction_layers(inputs, outputs, start=1.0)


def _prediction_layers(inputs: Sequence[int], outputs: int, *, start: float) -> nn.ModuleList:
    layers = [nn.Conv2d(c, outputs, 1) for c in inputs]
    for layer in layers:
        assert layer.bias is not None, "the default is a bias"
        # Small weights rather than zeros: with zeros all anchors tie and the first assignment is an accident.
        nn.init.normal_(layer.weight, std=0.01)
        nn.init.constant_(layer.bias, start)
    return nn.ModuleList(layers)


def per_anchor(layers: nn.ModuleList, maps: Sequence[Tensor]) -> Tensor:
    """Predictions of all levels, concatenated: [B, A, values].

    Channels are moved to the end first: convolutions compute in that layout, so no runtime has to copy.
    """
    rows = [layer(x).permute(0, 2, 3, 1).flatten(1, 2) for layer, x in zip(layers, maps, strict=True)]
    return torch.cat(rows, dim=1)


def _by_anchor(x: Tensor, count: int) -> Tensor:
    """[B, N * V, H, W] to [B, N * H * W, V]."""
    return x.unflatten(1, (count, -1)).flatten(3).transpose(2, 3).flatten(1, 2)


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
        bins = torch.arange(sides // 4, device=distances.device, dtype=distances.dtype)
        distances = (probability * bins).sum(dim=-1)  # OpenCV cannot load it as a matrix product
    return distances_to_boxes(points, distances * stride), cls_logits.sigmoid()
