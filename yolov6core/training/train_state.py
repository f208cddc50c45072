"""What a training changes step by step: weights, their average, the optimiser and the step count."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import nn

from yolov6core.training.distributed import ProcessGroup
from yolov6core.training.ema import ModelEma
from yolov6core.training.recipe import Recipe
from yolov6core.training.schedule import OPTIMIZERS, Schedule, bounded_warmup


@dataclass
class TrainState:
    """What one optimisation step changes."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    ema: ModelEma
    step: int = 0
    grad_clip_norm: float = 10.0
    """Largest gradient norm; larger gradients are scaled down to it."""
    batches_per_epoch: int = 0
    """0: not known."""
    accumulate: int = 1
    """Batches whose gradients make one step: their mean. The last step of an epoch takes the batches that are left."""
    scaler: torch.amp.GradScaler | None = None
    """Keeps float16 gradients in range; None without float16."""
    processes: ProcessGroup = field(default_factory=ProcessGroup)
    """The processes that train together."""


def make_train_state(
    model: nn.Module,
    recipe: Recipe,
    *,
    batches_per_epoch: int,
    scale_lr: float = 1.0,
    processes: ProcessGroup | None = None,
) -> TrainState:
    """Optimiser, schedule with warm-up and weight averaging, all bounded by the length of the run.

    Args:
        model: on its device.
        scale_lr: factor on the learning rate of branch scales, see `schedule.parameter_groups`.
    """
    processes = processes or ProcessGroup()
    steps_per_epoch = math.ceil(batches_per_epoch / recipe.accumulate)
    total = recipe.epochs * steps_per_epoch
    schedule = Schedule(
        base_lr=recipe.lr,
        final_factor=1.0 if recipe.schedule == "constant" else recipe.final_lr_factor,
        total_steps=total,
        warmup_steps=bounded_warmup(recipe.warmup_epochs, steps_per_epoch, total),
        momentum=recipe.momentum,
        warmup_momentum=min(0.8, recipe.momentum),
        warmup_bias_lr=recipe.lr,
    )
    optimizer = OPTIMIZERS[recipe.optimizer](
        model, momentum=recipe.momentum, weight_decay=recipe.weight_decay, scale_lr=scale_lr
    )
    return TrainState(
        model,
        optimizer,
        schedule,
        ModelEma(model, total_steps=total),
        grad_clip_norm=recipe.grad_clip_norm,
        batches_per_epoch=batches_per_epoch,
        accumulate=recipe.accumulate,
        scaler=torch.amp.GradScaler(processes.device) if recipe.amp == "fp16" else None,
        processes=processes,
    )
