"""What a recipe asks of the devices that it runs on."""

from __future__ import annotations

import logging

from yolov6core.base.errors import UserError, logger
from yolov6core.training.distributed import ProcessGroup
from yolov6core.training.recipe import Recipe


def check_batch(batch_size: int, processes: ProcessGroup) -> None:
    """Let only the first process log.

    Raises:
        UserError: the batch cannot be shared equally.
    """
    if not processes.main:
        logger.setLevel(logging.ERROR)
    if batch_size % processes.count:
        raise UserError(f"batch_size is {batch_size}; it has to be a multiple of the {processes.count} devices")


def check_precision(recipe: Recipe, processes: ProcessGroup) -> None:
    """Raises UserError for float16 without a GPU, and for synchronised batch norm without several GPUs."""
    on_gpu = processes.device.startswith("cuda")
    if recipe.amp == "fp16" and not on_gpu:
        raise UserError(f"amp is fp16, which needs runtime.device cuda (it is {processes.device}); take bf16 or none")
    if recipe.sync_norm and not (on_gpu and processes.count > 1):
        raise UserError(
            "sync_norm is true, but torch synchronises batch norm on several CUDA devices only; set it to false"
        )
