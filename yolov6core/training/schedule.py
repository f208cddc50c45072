"""Learning rate and momentum as a function of the step, and parameter groups."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then half a cosine from `base_lr` to `base_lr * final_factor`; steps count from 0.

    A `final_factor` of 1 keeps the learning rate constant after the warm-up.
    """

    base_lr: float
    final_factor: float
    total_steps: int
    warmup_steps: int
    momentum: float
    warmup_momentum: float
    warmup_bias_lr: float

    def lr(self, step: int) -> float:
        """Learning rate of kernels and batch norm."""
        progress = min(step / max(self.total_steps, 1), 1.0)
        cosine = self.base_lr * (self.final_factor + (1 - self.final_factor) * (1 + math.cos(math.pi * progress)) / 2)
        return cosine * min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else cosine

    def bias_lr(self, step: int) -> float:
        """Learning rate of biases: falls from `warmup_bias_lr` during the warm-up, so that the priors settle first."""
        if step >= self.warmup_steps:
            return self.lr(step)
        share = (step + 1) / self.warmup_steps
        return self.warmup_bias_lr * (1 - share) + self.lr(step) * share

    def momentum_at(self, step: int) -> float:
        """Momentum, rising from `warmup_momentum` during the warm-up."""
        if step >= self.warmup_steps:
            return self.momentum
        return self.warmup_momentum + (self.momentum - self.warmup_momentum) * (step + 1) / self.warmup_steps


def bounded_warmup(warmup_epochs: float, steps_per_epoch: int, total_steps: int) -> int:
    """Warm-up steps: `warmup_epochs` epochs, but at most a fifth of the training: small datasets leave it too."""
    return min(round(warmup_epochs * steps_per_epoch), total_steps // 5)


def sgd(model: nn.Module, *, momentum: float, weight_decay: float, scale_lr: float = 1.0) -> torch.optim.SGD:
    """SGD with Nesterov momentum on `parameter_groups`; the learning rate comes with every step."""
    groups = parameter_groups(model, weight_decay=weight_decay, scale_lr=scale_lr)
    return torch.optim.SGD(groups, lr=0.0, momentum=momentum, nesterov=True)


def adamw(model: nn.Module, *, momentum: float, weight_decay: float, scale_lr: float = 1.0) -> torch.optim.AdamW:
    """AdamW (1711.05101) on the same groups; `momentum` is its first beta."""
    groups = parameter_groups(model, weight_decay=weight_decay, scale_lr=scale_lr)
    return torch.optim.AdamW(groups, lr=0.0, betas=(momentum, 0.999))


OPTIMIZERS = {"sgd": sgd, "adamw": adamw}


def parameter_groups(model: nn.Module, *, weight_decay: float, scale_lr: float = 1.0) -> list[dict[str, Any]]:
    """Parameters in groups: batch norm, branch scales, kernels (the only decayed ones), biases.

    scale_lr: factor on the learning rate of a search's branch scales. They feel small gradients, because batch norm
    takes out whatever all branches of a channel have in common.
    """
    plain, scales, kernels, biases = [], [], [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.endswith("bias"):
            biases.append(parameter)
        elif ".scale_" in name:
            scales.append(parameter)
        else:
            (kernels if parameter.ndim > 1 else plain).append(parameter)
    groups = [
        {"params": plain, "weight_decay": 0.0, "name": "plain"},
        {"params": scales, "weight_decay": 0.0, "name": "scales", "factor": scale_lr},
        {"params": kernels, "weight_decay": weight_decay, "name": "kernels"},
        {"params": biases, "weight_decay": 0.0, "name": "biases"},
    ]
    return [group for group in groups if group["params"]]


def set_step_(optimizer: torch.optim.Optimizer, schedule: Schedule, step: int) -> None:
    """Write the schedule's values of one step into the optimiser."""
    momentum = schedule.momentum_at(step)
    for group in optimizer.param_groups:
        lr = schedule.bias_lr(step) if group["name"] == "biases" else schedule.lr(step)
        group["lr"] = lr * group.get("factor", 1.0)
        if "betas" in group:
            group["betas"] = (momentum, group["betas"][1])
        else:
            group["momentum"] = momentum
