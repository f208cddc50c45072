"""What the float network learns by: the terms of its loss and their weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from stages._evaluation import network_input

if TYPE_CHECKING:
    from torch import Tensor

    from stages._training import RecipeParams
    from yolov6core.losses.detection import DetectionLoss
    from yolov6core.models.detector import Detector, TrainingOutput
    from yolov6core.training.distributed import Ranks

LOSS_WEIGHTS = {"class": 1.0, "iou": 2.5, "dfl": 0.5, "direct_iou": 2.5, "anchor_class": 1.0, "anchor_iou": 2.5}
"""Weights of the detection terms (YOLOv6, 2209.02976), and of the same terms of branches."""


Losses = Callable[[Any, int], "Mapping[str, Tensor]"]
"""(batch, epoch) -> named unweighted terms."""


def detection_losses(
    model: Detector, *, meta: Mapping[str, Any], recipe: RecipeParams, ranks: Ranks | None = None
) -> Losses:
    """Detection loss terms of `model`. `meta` as of a checkpoint of the model.

    With a branch of anchors, the terms of anchor-aided training (2301.05586, section 2.2) are added to the others.
    With a branch of distributions (section 2.3), labels are assigned by it and teach it, and `direct_iou` teaches the
    plain distances: so a small network becomes a teacher, or a student of one.
    """
    from yolov6core.losses.anchor_aided import AnchorAidedLoss
    from yolov6core.training.distributed import Ranks

    ranks = ranks or Ranks()
    criterion = detection_criterion(meta, iou=recipe.iou, atss_epochs=recipe.atss_epochs)
    aided = AnchorAidedLoss(num_classes=criterion.num_classes, strides=criterion.strides, iou_type=recipe.iou)
    for loss in (criterion, aided.detection):
        loss.normalise_over(ranks.count, ranks.sum)
    forward = training_forward(model, recipe=recipe, device=ranks.device)

    def compute(batch: Any, epoch: int) -> Mapping[str, Tensor]:
        images, targets = network_input(batch[0], ranks.device), batch[1].to(ranks.device)
        output = forward(images)
        image_size = tuple(images.shape[-2:])
        settings = {"image_size": image_size, "epoch": epoch}
        if meta["branch"] == "distribution":
            return criterion.with_direct(output.cls_logits, output.distances, output.branch, targets, **settings)
        terms = criterion(output.cls_logits, output.distances, targets, **settings)
        if meta["branch"] == "anchors":
            beside = aided(*output.branch, targets, image_size=image_size)
            terms |= {f"anchor_{name}": term for name, term in beside.items()}
        return terms

    return compute


def training_forward(model: Detector, *, recipe: RecipeParams, device: str) -> Callable[[Tensor], TrainingOutput]:
    """`model.training_output`, compiled and in half precision if the recipe says so; losses are float32 anyway."""
    import torch

    forward = torch.compile(model.training_output) if recipe.compile else model.training_output
    if recipe.amp == "off":
        return forward
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[recipe.amp]
    return torch.autocast(device.split(":")[0], dtype=dtype)(forward)


def detection_criterion(meta: Mapping[str, Any], *, iou: str, atss_epochs: int) -> DetectionLoss:
    """The detection loss of the network that `meta` describes."""
    from yolov6core.losses.detection import DetectionLoss

    return DetectionLoss(
        num_classes=len(meta["names"]),
        strides=meta["model"]["strides"],
        reg_max=distance_bins(meta),
        iou_type=iou,
        warmup_epochs=atss_epochs,
    )


def distance_bins(meta: Mapping[str, Any]) -> int:
    """Last bin of the distance distribution that a network learns, in its output or its branch; 0: none."""
    from yolov6core.models.head import BRANCH_REG_MAX

    return BRANCH_REG_MAX if meta.get("branch") == "distribution" else meta["model"]["reg_max"]
