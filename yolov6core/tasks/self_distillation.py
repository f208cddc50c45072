"""Self-distillation of the float training: a trained network of the same shape teaches beside the labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from yolov6core.base.errors import UserError
from yolov6core.data.transforms import network_input
from yolov6core.losses.self_distillation import SelfDistillationLoss
from yolov6core.models.blocks import deploy_
from yolov6core.models.card import NetworkCard
from yolov6core.models.detector import Detector, TrainingOutput
from yolov6core.tasks.detection import LOSS_WEIGHTS, detection_criterion, training_forward
from yolov6core.tasks.networks import placed, read_network, stored_network
from yolov6core.training.distributed import ProcessGroup
from yolov6core.training.loop import Batch
from yolov6core.training.recipe import Recipe


@dataclass(frozen=True)
class TeacherWeights:
    """Factors of the teacher's terms. With `distill_features` 0 its maps are not compared."""

    distill_class: float = 1.0
    distill_dfl: float = 1.0
    distill_features: float = 0.0


class SelfDistillationTask:
    """(batch, epoch) -> terms of self-distillation (2301.05586, section 2.3), of the labels and of a teacher.

    Where both predict distance bins, in their output or in an auxiliary head, the teacher teaches those too.
    """

    def __init__(
        self,
        network: Detector,
        card: NetworkCard,
        recipe: Recipe,
        *,
        teacher: Path,
        teacher_weights: TeacherWeights,
        iou: str,
        atss_warmup_epochs: int = 0,
        processes: ProcessGroup | None = None,
    ) -> None:
        """Args:
            teacher: checkpoint of a float training.
            iou, atss_warmup_epochs: as of `DetectionTask`.

        Raises:
            UserError: the teacher is no float network of the same classes, bins and anchors.
        """
        processes = processes or ProcessGroup()
        self.device, self.card = processes.device, card
        self.weights: Mapping[str, float] = LOSS_WEIGHTS | vars(teacher_weights)
        self.with_maps = bool(teacher_weights.distill_features)
        criterion = detection_criterion(card, iou=iou, atss_warmup_epochs=atss_warmup_epochs)
        criterion.normalise_over(processes.count, processes.sum)
        self.loss = SelfDistillationLoss(criterion, epochs=recipe.epochs)
        self.forward = training_forward(network, recipe, device=self.device)
        taught_by, self.teacher_card = load_teacher(teacher, card, device=self.device)
        self.teach = torch.no_grad()(training_forward(taught_by, recipe, device=self.device))

    def __call__(self, batch: Batch, epoch: int) -> Mapping[str, Tensor]:
        images, targets = network_input(batch[0], self.device), batch[1].to(self.device)
        ours, theirs = self.forward(images), self.teach(images)
        return self.loss(
            _raw(ours, self.card),
            _raw(theirs, self.teacher_card),
            targets,
            image_size=(images.shape[-2], images.shape[-1]),
            epoch=epoch,
            maps=(ours.features, theirs.features) if self.with_maps else None,
        )


def _raw(output: TrainingOutput, card: NetworkCard) -> tuple[Tensor, ...]:
    if card.aux_head == "distribution":
        assert isinstance(output.aux, Tensor)
        return output.cls_logits, output.distances, output.aux
    return output.cls_logits, output.distances


def load_teacher(path: Path, student: NetworkCard, *, device: str) -> tuple[Detector, NetworkCard]:
    """Read a float checkpoint, folded, with its auxiliary head of distributions; checked against the student's card.

    Raises:
        UserError: there is no such file, or it does not fit the student.
    """
    try:
        tensors, card = read_network(path)
    except UserError as error:
        raise UserError(f"train.teacher: {error}") from None
    _check_teacher(path, card, student)
    network = stored_network(tensors, card, path=path)
    aux_head = network.head.aux_head
    deploy_(network)
    network.requires_grad_(False)
    network.head.aux_head = aux_head
    return placed(network, device), card


def _check_teacher(path: Path, card: NetworkCard, student: NetworkCard) -> None:
    if card.quantization is not None:
        raise UserError(f"train.teacher: {path} holds no float network; give the weights.safetensors of train-repopt")
    readings: dict[str, Callable[[NetworkCard], Any]] = {
        "classes": lambda about: list(about.names),
        "strides": lambda about: list(about.strides),
        "distance bins": lambda about: about.reg_max,
    }
    for what, of in readings.items():
        if of(card) != of(student):
            raise UserError(
                f"train.teacher: {what} of {path} are {of(card)}, those of the network to be trained {of(student)}; "
                "they have to be the same. Bins of a small network come from train.aux_head distribution, in the "
                "training of the teacher too"
            )
