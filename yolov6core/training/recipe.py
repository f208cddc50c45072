"""The numbers that a training is made by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How long a training runs and how its steps are made.

    Attributes:
        epochs: passes over the training images.
        batch_size: images of one batch, of all devices together.
        lr: peak learning rate; it ends at `lr * final_lr_factor`.
        momentum: of SGD; the first beta of AdamW.
        weight_decay: of kernels only.
        warmup_epochs: epochs of rising learning rate, at most a fifth of the training.
        close_mosaic_epochs: last epochs in which images are only flipped.
        eval_every: epochs from one evaluation on the select split to the next.
        seed: of initial weights, shuffling and augmentation.
        freeze_norm_epochs: last epochs in which batch norm uses its stored statistics. In small batches an image with
            extreme activations normalises itself; in use it does not, and the weights should have seen that.
        schedule: half a cosine, or the same learning rate after the warm-up.
        grad_clip_norm: larger gradients are scaled down to this norm.
        nominal_batch_size: images of one optimiser step, a multiple of `batch_size`; None: `batch_size`.
        amp: half precision of the forward pass. Losses are float32 in any case.
        compile: whether the forward pass goes through torch.compile.
        sync_norm: whether batch norm takes its statistics from the images of all devices.
    """

    epochs: int
    batch_size: int
    lr: float
    final_lr_factor: float
    momentum: float
    weight_decay: float
    warmup_epochs: float
    close_mosaic_epochs: int
    eval_every: int
    seed: int
    freeze_norm_epochs: int = 0
    optimizer: Literal["sgd", "adamw"] = "sgd"
    schedule: Literal["cosine", "constant"] = "cosine"
    grad_clip_norm: float = 10.0
    nominal_batch_size: int | None = None
    amp: Literal["none", "bf16", "fp16"] = "none"
    compile: bool = False
    sync_norm: bool = False

    @property
    def accumulate(self) -> int:
        """Batches whose gradients make one step."""
        return (self.nominal_batch_size or self.batch_size) // self.batch_size
