"""Trainings on several devices: starting the processes, and what they need of the recipe."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from stages._params import RuntimeParams
from yolov6core.errors import UserError, logger

if TYPE_CHECKING:
    from stages._training import RecipeParams
    from stages.qat_distill import QatParams
    from yolov6core.training.distributed import Ranks


def run_on_devices(stage: str, recipe: RecipeParams | QatParams, runtime: RuntimeParams, params: Path) -> bool:
    """Run the stage in several processes if more than one device is asked for; whether that was done.

    Processes that torchrun has started, whoever called it, are not multiplied further.
    """
    import typer

    from yolov6core.training.distributed import device_count, launch, started_by_torchrun

    if started_by_torchrun() or recipe.devices == 1:
        return False
    processes = device_count(recipe.devices, runtime.device)
    if processes == 1:
        return False
    code = launch(["-m", "stages", stage, "--params", str(params)], processes=processes, threads=runtime.threads)
    if code:
        raise typer.Exit(code)
    return True


def check_devices(batch_size: int, ranks: Ranks) -> None:
    """UserError for batches that cannot be shared; and let only the first process speak."""
    if not ranks.main:
        logger.setLevel(logging.ERROR)
    if batch_size % ranks.count:
        raise UserError(f"batch_size is {batch_size}; it has to be a multiple of the {ranks.count} devices")


def check_precision(recipe: RecipeParams, ranks: Ranks) -> None:
    """UserError for what this machine cannot do."""
    on_gpu = ranks.device.startswith("cuda")
    if recipe.amp == "fp16" and not on_gpu:
        raise UserError(f"amp is fp16, which needs runtime.device cuda (it is {ranks.device}); take bf16 or off")
    if recipe.sync_norm and not (on_gpu and ranks.count > 1):
        raise UserError(
            "sync_norm is true, but torch synchronises batch norm on several CUDA devices only; set it to false"
        )
