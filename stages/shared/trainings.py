"""The part that scale search and float training share: sections of parameters become a training of the library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import typer

from stages.params import AugmentParams, ModelParams, QatParams, RuntimeParams, SearchParams, TrainParams
from stages.shared import paths
from stages.shared.shell import how_to_continue, required, state_path
from stages.shared.start_line import log_start
from yolov6core.base.errors import UserError
from yolov6core.base.tables import write_rows
from yolov6core.base.threads import compute_device, describe_device, set_threads
from yolov6core.data.dataset import DetectionDataset
from yolov6core.evaluation.evaluator import DetectionLimits
from yolov6core.models.card import NetworkCard, new_card
from yolov6core.models.detector import Detector
from yolov6core.tasks.evaluation import SplitEvaluator
from yolov6core.tasks.float_training import FloatTraining, Task, Trained
from yolov6core.training.curves import writer_class
from yolov6core.training.distributed import ProcessGroup, device_count, join, launch, started_by_torchrun
from yolov6core.training.interruption import ResumePoint
from yolov6core.training.recipe import Recipe


@dataclass(frozen=True)
class TrainingSections:
    """The sections that a training of the float network obeys."""

    model: ModelParams
    augment: AugmentParams
    training: SearchParams | TrainParams
    runtime: RuntimeParams


@dataclass(frozen=True)
class Setup:
    """What the task of a training is made of."""

    card: NetworkCard
    recipe: Recipe
    processes: ProcessGroup


def train_float(
    stage: str,
    sections: TrainingSections,
    *,
    block: str,
    make_task: Callable[[Detector, Setup], Task],
    aux_head: str = "none",
    start: Callable[[Detector, str], None] = lambda network, block: None,
    scale_lr: float = 1.0,
    limits: DetectionLimits | None = None,
    inputs: tuple[Path, ...] = (),
) -> tuple[Trained, NetworkCard, Path]:
    """Train a network on the train split.

    Args:
        stage: name of the command; an interrupted run keeps its state under it.
        block, aux_head: see `card.new_card`.
        make_task: (network, setup) -> task.
        start: called with the fresh network and the form of its blocks, before the first step.
        scale_lr: see `FloatTraining`.
        limits: of the evaluation on select; None: the field's.
        inputs: files that the run depends on, beside the dataset.

    Returns: the finished training, the network's card, and the file of its state, to be dropped by `finish`.
    """
    training, runtime, limits = sections.training, sections.runtime, limits or DetectionLimits()
    processes = join(compute_device(runtime.device))
    set_threads(runtime.threads)
    log_start(stage, "torch", device=describe_device(processes.device, processes=processes.count))
    folder = required(paths.DATASET, made_by="prepare-voc2yolo")
    dataset = training_images(sections.model.size, runtime, processes)
    card = card_of(sections.model, names=dataset.names, block=block, aux_head=aux_head)
    recipe = recipe_of(training)
    settings = [section.model_dump() for section in (sections.model, sections.augment, training)]
    state = state_path(stage, *settings, vars(limits), inputs=(*paths.training_labels(), *inputs))
    setup = Setup(card, recipe, processes)
    evaluate = SplitEvaluator(
        DetectionDataset(folder, "select"),
        card,
        batch_size=recipe.batch_size,
        limits=limits,
        processes=processes,
        rectangular=training.rectangular,
    )
    trained = FloatTraining(
        card=card,
        recipe=recipe,
        dataset=dataset,
        evaluate=evaluate,
        augment=sections.augment.model_dump(),
        make_task=lambda network: make_task(network, setup),
        start=lambda network: start(network, card.block),
        scale_lr=scale_lr,
        resume=resume_point(state, stage, runtime),
        workers=runtime.workers,
        processes=processes,
    ).run()
    return trained, card, state


def training_images(size: tuple[int, int], runtime: RuntimeParams, processes: ProcessGroup) -> DetectionDataset:
    """The train split; each of several processes has its share of the memory or disk for images."""
    dataset = DetectionDataset(paths.DATASET, "train")
    limit = runtime.cache_mib // processes.count
    dataset.keep_fitted(size, kind=runtime.cache, limit_mib=limit, folder=paths.RESUME)
    return dataset


def spread_over_devices(
    command: Sequence[str], section: SearchParams | TrainParams | QatParams, runtime: RuntimeParams
) -> bool:
    """Run `python COMMAND` in several processes if more than one device is asked for; whether it was done.

    Processes that torchrun has started, whoever called it, are not multiplied further.

    Raises:
        UserError: curves are wanted, and TensorBoard does not load.
    """
    if runtime.tensorboard is not None:
        writer_class()
    if started_by_torchrun() or section.devices == 1:
        return False
    processes = device_count(section.devices, compute_device(runtime.device))
    if processes == 1:
        return False
    code = launch(command, processes=processes, threads=runtime.threads)
    if code:
        raise typer.Exit(code)
    return True


def resume_point(state: Path, stage: str, runtime: RuntimeParams) -> ResumePoint:
    """Where a training continues from; its curves lie under the name of its state, so that no others get mixed in."""
    curves = None if runtime.tensorboard is None else Path(runtime.tensorboard) / stage / state.parent.name
    return ResumePoint(state, how_to_continue(), curves)


def write_no_epochs(folder: Path) -> None:
    """Tables without rows where weights or scales were given: plots name these files, trained or not."""
    write_rows(folder / "epochs.csv", [], columns=("epoch", "total"))
    write_rows(folder / "selection.csv", [], columns=("epoch", "map50_95"))


def recipe_of(section: SearchParams | TrainParams | QatParams) -> Recipe:
    """The recipe of a training: every field that the section has under the same name."""
    values = section.model_dump()
    return Recipe(**{field.name: values[field.name] for field in fields(Recipe) if field.name in values})


def card_of(
    model: ModelParams, *, names: tuple[str, ...], block: str, aux_head: str = "none", deployed: bool = False
) -> NetworkCard:
    """The card of the float network. Raises UserError for a variant or size that does not exist."""
    try:
        card = new_card(
            model.variant, block=block, aux_head=aux_head, names=names, image_size=model.size, shrink=model.shrink
        )
    except ValueError as error:
        raise UserError(f"model: {error}") from None
    return replace(card, deployed=deployed)
