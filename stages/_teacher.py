"""Self-distillation of the float training: a trained network of the same shape teaches beside the labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages._evaluation import network_input
from stages._losses import LOSS_WEIGHTS, Losses, detection_criterion, distance_bins, training_forward
from stages._networks import stored_network
from yolov6core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from stages.train_repopt import TrainParams
    from yolov6core.models.detector import Detector, TrainingOutput
    from yolov6core.training.distributed import Ranks

DISTILLATION = ("distill_class", "distill_dfl", "distill_features")


def distillation_weights(train: TrainParams) -> dict[str, float]:
    """Factor of every term that `self_distillation_losses` gives."""
    return LOSS_WEIGHTS | {name: getattr(train, name) for name in DISTILLATION}


def self_distillation_losses(model: Detector, *, meta: Mapping[str, Any], recipe: TrainParams, ranks: Ranks) -> Losses:
    """Terms of self-distillation (2301.05586, section 2.3): of the labels, and of the network at `recipe.teacher`.

    `meta` as of a checkpoint of the model. Where both predict distance bins, in their output or in a branch of
    distributions, the teacher teaches those too. Its maps are compared if `distill_features` is not 0.

    Raises:
        UserError: the teacher is no float network of the same classes, bins and anchors.
    """
    import torch

    from yolov6core.losses.self_distillation import SelfDistillationLoss

    teacher, teacher_meta = load_teacher(Path(recipe.teacher), meta, device=ranks.device)
    criterion = detection_criterion(meta, iou=recipe.iou, atss_epochs=recipe.atss_epochs)
    criterion.normalise_over(ranks.count, ranks.sum)
    loss = SelfDistillationLoss(criterion, epochs=recipe.epochs)
    forward = training_forward(model, recipe=recipe, device=ranks.device)
    teach = torch.no_grad()(training_forward(teacher, recipe=recipe, device=ranks.device))

    def compute(batch: Any, epoch: int) -> Mapping[str, Tensor]:
        images, targets = network_input(batch[0], ranks.device), batch[1].to(ranks.device)
        ours, theirs = forward(images), teach(images)
        return loss(
            _raw(ours, meta),
            _raw(theirs, teacher_meta),
            targets,
            image_size=tuple(images.shape[-2:]),
            epoch=epoch,
            maps=(ours.features, theirs.features) if recipe.distill_features else None,
        )

    return compute


def _raw(output: TrainingOutput, meta: Mapping[str, Any]) -> tuple[Tensor, ...]:
    if meta["branch"] == "distribution":
        return output.cls_logits, output.distances, output.branch
    return output.cls_logits, output.distances


def load_teacher(path: Path, student: Mapping[str, Any], *, device: str) -> tuple[Detector, dict[str, Any]]:
    """Read a float checkpoint, folded, with its branch of distributions; checked against the student's metadata."""
    import torch

    from yolov6core.checkpoint import load_checkpoint
    from yolov6core.models.blocks import deploy_

    if not path.is_file():
        raise UserError(f"train.teacher: {path} does not exist; give the weights.safetensors of a float training")
    try:
        tensors, meta = load_checkpoint(path)
    except ValueError as error:
        raise UserError(f"train.teacher: {error}") from None
    meta = {"branch": "none"} | meta
    _check(path, meta, student)
    with torch.random.fork_rng(devices=[]):  # as in load_float_model
        network = stored_network(tensors, meta, path=path)
        branch = network.head.branch
        deploy_(network).requires_grad_(False)
    network.head.branch = branch
    return network.to(device, memory_format=torch.channels_last), meta


def _check(path: Path, meta: Mapping[str, Any], student: Mapping[str, Any]) -> None:
    if "quant" in meta or "model" not in meta:
        raise UserError(f"train.teacher: {path} holds no float network; give the weights.safetensors of train-repopt")
    for what, of in (
        ("classes", lambda about: list(about["names"])),
        ("strides", lambda about: list(about["model"]["strides"])),
        ("distance bins", distance_bins),
    ):
        if of(meta) != of(student):
            raise UserError(
                f"train.teacher: {what} of {path} are {of(meta)}, those of the network to be trained {of(student)}; "
                "they have to be the same. Bins of a small network come from train.branch distribution, in the "
                "training of the teacher too"
            )
