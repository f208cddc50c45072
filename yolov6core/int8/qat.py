"""Quantization-aware training: the float network teaches the outputs and feature maps of the quantized one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from yolov6core.data.transforms import network_input
from yolov6core.losses.distill import channel_wise_kl, output_distillation
from yolov6core.losses.functional import expected_distances
from yolov6core.models.card import NetworkCard
from yolov6core.tasks.detection import LOSS_WEIGHTS, detection_criterion
from yolov6core.training.distributed import ProcessGroup
from yolov6core.training.loop import Batch


@dataclass(frozen=True)
class QatWeights:
    """How much each part of the loss counts; 0 leaves a part out.

    Attributes:
        detection: factor of all detection terms; labels are read for these only.
        distill_class, distill_box: of the network's outputs. `distill_dfl`: where there are distance bins.
        distill_features: of the maps at the head's entrance, channel by channel (2011.13256).
    """

    detection: float = 1.0
    distill_class: float = 1.0
    distill_box: float = 1.0
    distill_dfl: float = 1.0
    distill_features: float = 1.0

    @property
    def outputs(self) -> bool:
        """Whether any term compares outputs."""
        return bool(self.distill_class + self.distill_box + self.distill_dfl)

    def factors(self) -> dict[str, float]:
        """Factor of every term that `QatTask` gives."""
        detection = {name: self.detection * weight for name, weight in LOSS_WEIGHTS.items()}
        return detection | {name: value for name, value in vars(self).items() if name != "detection"}


class QatTask:
    """(batch, epoch) -> terms of the student, unweighted; `weights` are their factors.

    Each of several processes divides by what the whole batch has in mind.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        card: NetworkCard,
        *,
        parts: QatWeights,
        iou: str,
        temperature: float = 1.0,
        processes: ProcessGroup | None = None,
    ) -> None:
        """Args:
        student, teacher: the quantized and the float network, on their device, with raw outputs. Where the teacher
            predicts distance bins and the student does not, their means teach.
        iou: box loss of the detection terms.
        temperature: of output and feature distillation.
        """
        self.student, self.teacher = student, teacher
        self.processes = processes or ProcessGroup()
        self.parts, self.temperature = parts, temperature
        self.weights: Mapping[str, float] = parts.factors()
        self.criterion = detection_criterion(card, iou=iou)
        self.criterion.normalise_over(self.processes.count, self.processes.sum)
        self.bins = bool(card.spec.reg_max)
        self.student_maps, self.teacher_maps = (
            RecordedOutputs(network, distilled_maps(network) if parts.distill_features else [])
            for network in (student, teacher)
        )

    def __call__(self, batch: Batch, epoch: int) -> dict[str, Tensor]:
        images = network_input(batch[0], self.processes.device)
        taught = self._taught(images) if self.parts.outputs or self.parts.distill_features else None
        raw = self.student(images)
        terms: dict[str, Tensor] = {}
        if self.parts.detection:
            targets = batch[1].to(self.processes.device)
            size = (images.shape[-2], images.shape[-1])
            terms |= self.criterion(raw[0], raw[1], targets, image_size=size, epoch=epoch)
        if taught is not None and self.parts.outputs:
            share = _share_of_batch(taught[0], self.processes)
            distilled = output_distillation(raw, taught, temperature=self.temperature)
            terms |= {name: share * term for name, term in distilled.items()}
        if self.parts.distill_features:
            maps = self.student_maps.tensors(), self.teacher_maps.tensors()
            terms["distill_features"] = channel_wise_kl(*maps, temperature=self.temperature)
        return terms

    @torch.no_grad()
    def _taught(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits, distances = self.teacher(images)
        return logits, distances if self.bins or distances.shape[-1] == 4 else expected_distances(distances.float())


def freeze_unused_(student: nn.Module, terms: Mapping[str, Tensor]) -> None:
    """Freeze parameters that no term of a batch depends on: processes would wait for gradients to average.

    Such are scales that the dialect does not use, and prediction layers where only features count.
    """
    torch.stack(list(terms.values())).sum().backward()
    for parameter in student.parameters():
        parameter.requires_grad_(parameter.grad is not None)
        parameter.grad = None


def _share_of_batch(teacher_logits: Tensor, processes: ProcessGroup) -> Tensor | float:
    """Factor of this process's output terms, which are divided by the teacher's confidence in its images (at least 1).
    With it, their mean over the processes is the term of the whole batch. 1 for a process alone."""
    if processes.count == 1:
        return 1.0
    confidence = teacher_logits.float().sigmoid().amax(dim=-1).sum()
    return processes.count * confidence.clamp(min=1) / processes.sum(confidence).clamp(min=1)


def distilled_maps(detector: nn.Module) -> list[str]:
    """Paths of the activations that end the head's stems, one a level, in a deployed and a quantized network."""
    paths = []
    for level, stem in enumerate(detector.get_submodule("head.stems").children()):
        last = [name for name, _ in stem.named_modules() if name.split(".")[-1] == "act"][-1]
        paths.append(f"head.stems.{level}.{last}")
    return paths


class RecordedOutputs:
    """After each forward pass of a network, the outputs of some of its modules."""

    def __init__(self, network: nn.Module, names: Sequence[str]) -> None:
        """`names`: module paths."""
        self._names, self._found = tuple(names), dict[str, Tensor]()
        for name in self._names:
            network.get_submodule(name).register_forward_hook(_recorder(self._found, name))

    def tensors(self) -> list[Tensor]:
        """Outputs of the last forward pass, in the order of the names."""
        return [self._found[name] for name in self._names]


def _recorder(found: dict[str, Tensor], name: str) -> Callable[[nn.Module, object, Tensor], None]:
    """A hook that is a function, so that copies of the network (the average) do not copy tensors of its last run."""

    def record(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        found[name] = output

    return record
