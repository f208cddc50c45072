"""A training of the float network: data, task, optimiser and the choice of weights put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from yolov6core.base.errors import UserError
from yolov6core.data.dataset import DetectionDataset
from yolov6core.data.epochs import TrainingBatches
from yolov6core.models.card import NetworkCard
from yolov6core.models.detector import Detector
from yolov6core.tasks.evaluation import SplitEvaluator
from yolov6core.tasks.networks import fresh_network
from yolov6core.training.devices import check_batch, check_precision
from yolov6core.training.distributed import ProcessGroup, with_averaged_gradients
from yolov6core.training.fit import fit
from yolov6core.training.interruption import ResumePoint
from yolov6core.training.loop import Batch
from yolov6core.training.recipe import Recipe
from yolov6core.training.run import TrainingRun
from yolov6core.training.train_state import TrainState, make_train_state


class Task(Protocol):
    """Network and criterion: (batch, epoch) -> named unweighted scalar terms."""

    @property
    def weights(self) -> Mapping[str, float]:
        """Factor of every term."""
        ...

    def __call__(self, batch: Batch, epoch: int) -> Mapping[str, Tensor]: ...


@dataclass(frozen=True, kw_only=True)
class FloatTraining:
    """What a training is made of; `run` trains.

    Attributes:
        card: of the network to be trained.
        dataset: images that it learns from.
        evaluate: its figures on the select split.
        augment: settings as of `TrainingBatches`.
        make_task: network, on its device -> its task.
        start: called with the fresh network before the first step.
        scale_lr: factor on the learning rate of branch scales.
        resume: where an interrupted run continues from.
        workers: loader processes.
    """

    card: NetworkCard
    recipe: Recipe
    dataset: DetectionDataset
    evaluate: SplitEvaluator
    augment: Mapping[str, float]
    make_task: Callable[[Detector], Task]
    start: Callable[[Detector], None] = lambda network: None
    scale_lr: float = 1.0
    resume: ResumePoint
    workers: int = 0
    processes: ProcessGroup = field(default_factory=ProcessGroup)

    def run(self) -> Trained:
        """Train.

        Raises:
            UserError: settings that do not go together, or as of `fit`.
            Interrupted: as of `fit`.
        """
        recipe, processes = self.recipe, self.processes
        check_batch(recipe.batch_size, processes)
        check_precision(recipe, processes)
        torch.manual_seed(recipe.seed)
        network = fresh_network(self.card)
        network.to(device=torch.device(processes.device), memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.start(network)
        if recipe.sync_norm:
            # In place below the root, which is no batch norm.
            torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)
        batches = training_batches(
            self.dataset, self.card, recipe, augment=self.augment, workers=self.workers, processes=processes
        )
        state = make_train_state(
            network, recipe, batches_per_epoch=len(batches), scale_lr=self.scale_lr, processes=processes
        )
        task = self.make_task(network)
        run = fit(
            state,
            recipe,
            batches=batches,
            losses=with_averaged_gradients(network, task, processes),
            weights=task.weights,
            evaluate=lambda model: self.evaluate(model).stats,
            resume=self.resume,
        )
        return Trained(network, state, run, batches)


@dataclass(frozen=True)
class Trained:
    """A finished training: the network and the average with their last weights, the best weights in `run`."""

    network: Detector
    state: TrainState
    run: TrainingRun
    batches: TrainingBatches

    @property
    def main(self) -> bool:
        """Whether this process is the one that writes."""
        return self.state.processes.main


def training_batches(
    dataset: DetectionDataset,
    card: NetworkCard,
    recipe: Recipe,
    *,
    augment: Mapping[str, float],
    workers: int = 0,
    processes: ProcessGroup | None = None,
) -> TrainingBatches:
    """Batches of a training of the network on `dataset`; each of several processes gets its share of every batch.

    Raises:
        UserError: `augment.multi_scale` is too small for the network's strides.
    """
    processes = processes or ProcessGroup()
    try:
        return TrainingBatches(
            dataset,
            augment=augment,
            image_size=card.image_size,
            stride=max(card.strides),
            batch_size=recipe.batch_size,
            epochs=recipe.epochs,
            close_mosaic_epochs=recipe.close_mosaic_epochs,
            seed=recipe.seed,
            workers=workers,
            share=processes.share,
        )
    except ValueError as error:
        raise UserError(f"augment.multi_scale: {error}") from None
