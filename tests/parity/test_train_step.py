"""Real optimisation steps of the official trainer, repeated by our training loop from the same weights and images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.golden import golden_files
from tests.support.official import build_from_meta
from yolov6core.losses.anchor_aided import AnchorAidedLoss
from yolov6core.losses.detection import DetectionLoss
from yolov6core.models.detector import Detector
from yolov6core.models.stage_blocks import ShortcutScale
from yolov6core.pretrained.official_names import from_official
from yolov6core.training.ema import ModelEma
from yolov6core.training.loop import train_one_epoch
from yolov6core.training.schedule import sgd
from yolov6core.training.train_state import TrainState

ITEMS = ("iou", "dfl", "class")
WEIGHTS = {"class": 1.0, "iou": 2.5, "dfl": 0.5, "anchor_class": 1.0, "anchor_iou": 2.5}
TOLERANCE = 10
"""How often the recorded sensitivity to a disturbance of 3e-7 a difference may be, as the reference's notes say."""


@dataclass
class RecordedSchedule:
    """Learning rates and momenta of the recorded steps."""

    steps: list[dict]

    def lr(self, step: int) -> float:
        return self.steps[step]["lr_per_group"][0]

    def bias_lr(self, step: int) -> float:
        return self.steps[step]["lr_per_group"][2]

    def momentum_at(self, step: int) -> float:
        return self.steps[step]["momentum"]


class Losses:
    """The loss of one batch, keeping the terms and first gradients that the record holds."""

    def __init__(self, model: Detector, meta: dict) -> None:
        head = meta["model_config"]["head"]
        settings = {
            "num_classes": meta["num_classes"],
            "strides": head["strides"],
            "iou_type": head["iou_type"],
        }
        self.model = model
        self.image_size = tuple(meta["image_hw"])
        self.criterion = DetectionLoss(
            **settings,
            reg_max=head["reg_max"] if head["use_dfl"] else 0,
            warmup_epochs=head.get("atss_warmup_epoch", 0),
        )
        self.anchor_criterion = AnchorAidedLoss(**settings, divide_above=0.0)
        self.seen: list[dict[str, float]] = []

    def __call__(self, batch: tuple[Tensor, Tensor]) -> Mapping[str, Tensor]:
        images, targets = (part.double() for part in batch)
        output = self.model.training_output(images / 255)
        terms = self.criterion(*output[:2], targets, image_size=self.image_size, epoch=0)
        if output.aux is not None:
            aided = self.anchor_criterion(*output.aux, targets, image_size=self.image_size)
            terms |= {f"anchor_{name}": term for name, term in aided.items()}
        self.seen.append({name: (WEIGHTS[name] * term).item() for name, term in terms.items()})
        return terms

    def items(self, step: int, prefix: str = "") -> list[float]:
        return [self.seen[step].get(prefix + name, 0.0) for name in ITEMS]


def _under(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, Tensor]:
    found = {key.removeprefix(prefix): torch.from_numpy(arrays[key]) for key in arrays if key.startswith(prefix)}
    return from_official(found)


def _distance(found: Tensor, expected: Tensor) -> float:
    """Relative L2 error; absolute where there is next to nothing to compare with."""
    error = (found.double() - expected.double()).norm().item()
    return error / max(expected.double().norm().item(), 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", golden_files("train_step_*.npz"))
def test_steps_equal_the_official_trainers(golden: Callable, name: str) -> None:
    arrays, meta = golden(name)
    model = build_from_meta(meta).train()
    model.load_state_dict(_under(arrays, "start_state/"))
    # In single precision the order of additions, which depends on CPU and threads, comes near the bounds.
    model.double()
    for module in model.modules():
        if isinstance(module, ShortcutScale):
            # The official trainer forgets these in its parameter groups. Here they learn; for the comparison they rest.
            module.requires_grad_(False)
    steps = meta["steps"]
    optimizer = sgd(model, momentum=0.9, weight_decay=meta["weight_decay_per_group"][1])
    # so long a training that neither decay nor ramp of the average are shortened: the official average
    ema = ModelEma(model, total_steps=10**7)
    state = TrainState(model, optimizer, RecordedSchedule(steps), ema, grad_clip_norm=float("inf"))
    losses = Losses(model, meta)

    gradients: dict[str, Tensor] = {}
    for parameter_name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.register_hook(
                lambda grad, key=parameter_name: (
                    gradients.setdefault(key, grad.clone()) if not losses.seen[1:] else None
                )
            )
    batches = [
        tuple(torch.from_numpy(arrays[f"step{step}/{part}"]) for part in ("images_uint8", "targets"))
        for step in range(len(steps))
    ]
    train_one_epoch(state, batches, losses, WEIGHTS)

    sensitivity = meta["sensitivity"]
    for step, noise in enumerate(sensitivity["loss_items"]):
        bound = {"rel": TOLERANCE * max(noise, 1e-6), "abs": 1e-6}
        assert losses.items(step) == pytest.approx(arrays[f"step{step}/loss_items_anchor_free"], **bound)
        if f"step{step}/loss_items_anchor_based" in arrays:
            recorded = arrays[f"step{step}/loss_items_anchor_based"]
            assert losses.items(step, "anchor_") == pytest.approx(recorded, **bound)

    recorded = _under(arrays, "step0/grad/")
    assert gradients.keys() <= recorded.keys()
    assert {key for key in recorded.keys() - gradients.keys() if recorded[key].any()} <= _resting(model)
    for key, gradient in gradients.items():
        assert _distance(gradient, recorded[key]) < TOLERANCE * sensitivity["step0_grad_max"], key
    for found, prefix in ((model.state_dict(), "end_state/"), (ema.model.state_dict(), "end_ema/")):
        for key, expected in _under(arrays, prefix).items():
            if prefix == "end_ema/" and not expected.is_floating_point():
                continue  # the official average keeps the batch counts of its creation
            assert _distance(found[key], expected) < TOLERANCE * sensitivity["end_state_max"], (prefix, key)


def _resting(model: Detector) -> set[str]:
    return {key for key, parameter in model.named_parameters() if not parameter.requires_grad}
