"""The detection task: a network and the terms of its loss on the labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor

from yolov6core.data.transforms import network_input
from yolov6core.losses.anchor_aided import AnchorAidedLoss
from yolov6core.losses.detection import DetectionLoss
from yolov6core.models.card import NetworkCard
from yolov6core.models.detector import Detector, TrainingOutput
from yolov6core.training.distributed import ProcessGroup
from yolov6core.training.loop import Batch
from yolov6core.training.recipe import Recipe

LOSS_WEIGHTS = {"class": 1.0, "iou": 2.5, "dfl": 0.5, "direct_iou": 2.5, "anchor_class": 1.0, "anchor_iou": 2.5}
"""Weights of the detection terms (YOLOv6, 2209.02976), and of the same terms of auxiliary heads."""
AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

Forward = Callable[[Tensor], TrainingOutput]


def detection_criterion(card: NetworkCard, *, iou: str, atss_warmup_epochs: int = 0) -> DetectionLoss:
    """The detection loss of a network. `iou`: one of `losses.functional.BOX_LOSSES`."""
    return DetectionLoss(
        num_classes=card.num_classes,
        strides=card.strides,
        reg_max=card.reg_max,
        iou_type=iou,
        warmup_epochs=atss_warmup_epochs,
    )


def training_forward(network: Detector, recipe: Recipe, *, device: str) -> Forward:
    """`network.training_output`, compiled and in half precision if the recipe says so; losses are float32 anyway."""
    forward = torch.compile(network.training_output) if recipe.compile else network.training_output
    if recipe.amp == "none":
        return cast(Forward, forward)
    return cast(Forward, torch.autocast(device.split(":")[0], dtype=AMP_DTYPES[recipe.amp])(forward))


class DetectionTask:
    """(batch, epoch) -> detection loss terms of a network, unweighted; `weights` are their factors.

    With an auxiliary head of anchors, the terms of anchor-aided training (2301.05586, section 2.2) are added. With one
    of distributions (section 2.3), it assigns the labels and learns them, and `direct_iou` teaches the plain distances:
    so a small network becomes a teacher, or the student of one.
    """

    weights: Mapping[str, float] = LOSS_WEIGHTS

    def __init__(
        self,
        network: Detector,
        card: NetworkCard,
        recipe: Recipe,
        *,
        iou: str,
        atss_warmup_epochs: int = 0,
        processes: ProcessGroup | None = None,
    ) -> None:
        """Args:
        iou: box loss, one of `losses.functional.BOX_LOSSES`.
        atss_warmup_epochs: first epochs assigned by ATSS, the others by TAL.
        """
        processes = processes or ProcessGroup()
        self.device, self.aux_head = processes.device, card.aux_head
        self.criterion = detection_criterion(card, iou=iou, atss_warmup_epochs=atss_warmup_epochs)
        self.aided = AnchorAidedLoss(num_classes=card.num_classes, strides=card.strides, iou_type=iou)
        for loss in (self.criterion, self.aided.detection):
            loss.normalise_over(processes.count, processes.sum)
        self.forward = training_forward(network, recipe, device=self.device)

    def __call__(self, batch: Batch, epoch: int) -> Mapping[str, Tensor]:
        images, targets = network_input(batch[0], self.device), batch[1].to(self.device)
        image_size = (images.shape[-2], images.shape[-1])
        output = self.forward(images)
        raw = (output.cls_logits, output.distances)
        if self.aux_head == "distribution":
            assert isinstance(output.aux, Tensor)
            return self.criterion.with_direct(*raw, output.aux, targets, image_size=image_size, epoch=epoch)
        terms = self.criterion(*raw, targets, image_size=image_size, epoch=epoch)
        if self.aux_head == "anchors":
            assert isinstance(output.aux, tuple)
            aided = self.aided(*output.aux, targets, image_size=image_size)
            terms |= {f"anchor_{name}": term for name, term in aided.items()}
        return terms
