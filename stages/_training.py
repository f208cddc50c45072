"""What scale search, float training and QAT put into a training run: data, losses, optimiser, the choice of weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from stages._devices import check_devices, check_precision
from stages._evaluation import DATASET, evaluate_split
from stages._fit import Fit, LoopParams, fit, state_path
from stages._losses import LOSS_WEIGHTS, Losses, detection_losses
from stages._networks import Architecture, fresh_network, network_meta
from stages._params import AugmentParams, Bounds, ModelParams, RuntimeParams
from stages._report import need, set_threads
from yolov6core.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from yolov6core.data.dataset import DetectionDataset
    from yolov6core.evaluation.evaluator import EvalResult
    from yolov6core.models.detector import Detector
    from yolov6core.training.distributed import Ranks
    from yolov6core.training.loop import Learner

LABELS = tuple(
    DATASET / name for name in ("train.txt", "annotations/instances_train.json", "annotations/instances_select.json")
)
"""What trainings learn from and choose by: a run is continued only on the very same images and labels."""


@dataclass(frozen=True)
class RecipeParams(LoopParams):
    """What scale search and float training have in common beyond that: ATSS at first, fixed batch norm at last, and
    how the steps are computed. `batch_size` is that of all devices together."""

    atss_epochs: Annotated[int, Bounds(0, 100_000)]
    freeze_norm_epochs: Annotated[int, Bounds(0, 100_000)]
    optimizer: Literal["sgd", "adamw"]
    schedule: Literal["cosine", "constant"]
    max_norm: Annotated[float, Bounds(1e-6, None)]
    accumulate_to: Annotated[int, Bounds(1, 1_000_000)] | None
    amp: Literal["off", "bf16", "fp16"]
    compile: bool
    devices: Annotated[int, Bounds(1, 1024)] | Literal["auto"]
    sync_norm: bool
    rectangular: bool

    def __post_init__(self) -> None:
        if self.accumulate_to is not None and self.accumulate_to % self.batch_size:
            raise ValueError(
                f"accumulate_to is {self.accumulate_to}; give a multiple of batch_size ({self.batch_size}), or null"
            )


@dataclass(frozen=True)
class Sections:
    """The parameter sections of a training of the float network."""

    model: ModelParams
    augment: AugmentParams
    recipe: RecipeParams
    runtime: RuntimeParams


@dataclass(frozen=True)
class Task:
    """What one training does differently from others.

    Attributes:
        architecture: what is built of the variant.
        inputs: further files that the run depends on.
        start: called with the fresh network, on its device, before the first step.
        losses: makes the loss of the network; arguments as of `detection_losses`.
        weights: factor of every term of the loss.
        scale_lr: factor on the learning rate of branch scales.
    """

    architecture: Architecture
    inputs: tuple[Path, ...] = ()
    start: Callable[[Detector], None] = lambda network: None
    losses: Callable[..., Losses] | None = None
    weights: Mapping[str, float] = field(default_factory=lambda: LOSS_WEIGHTS)
    scale_lr: float = 1.0


@dataclass(frozen=True)
class Trained:
    """A finished training: the last weights in `learner`, the best in `run`, and what its checkpoint says."""

    learner: Learner
    run: Fit
    meta: dict[str, Any]
    batches: Callable[[int], Iterable]
    state: Path

    @property
    def main(self) -> bool:
        """Whether this process is the one that writes."""
        return self.learner.ranks.main


def train_float(stage: str, sections: Sections, task: Task) -> Trained:
    """Train a network on the train split.

    Args:
        stage: name of the command, under which an interrupted run keeps its state.
        sections: all that the run depends on, beside the dataset and the task's inputs.
        task: what is trained, from where and by which loss.
    """
    import torch

    from yolov6core.data.dataset import DetectionDataset
    from yolov6core.training.distributed import join, with_averaged_gradients

    model, augment, recipe, runtime = sections.model, sections.augment, sections.recipe, sections.runtime
    ranks = join(runtime.device)
    check_devices(recipe.batch_size, ranks)
    check_precision(recipe, ranks)
    set_threads(runtime.threads)
    torch.manual_seed(recipe.seed)
    dataset = DetectionDataset(need(DATASET, "prepare-voc2yolo"), "train", cache_mib=runtime.cache_mib)
    meta = network_meta(model, task.architecture, names=dataset.names)
    network = fresh_network(meta)
    network.to(ranks.device, memory_format=torch.channels_last)
    task.start(network)
    if recipe.sync_norm:
        network = torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)
    batches, steps = training_batches(
        dataset, recipe=recipe, augment=augment, meta=meta, workers=runtime.workers, ranks=ranks
    )
    how = Optimisation.of(recipe, device=ranks.device)
    learner = make_learner(network, recipe=recipe, steps_per_epoch=steps, scale_lr=task.scale_lr, how=how)
    learner.ranks = ranks
    losses = (task.losses or detection_losses)(network, meta=meta, recipe=recipe, ranks=ranks)
    evaluate = select_evaluation(meta, batch_size=recipe.batch_size, ranks=ranks, rectangular=recipe.rectangular)
    state = state_path(stage, asdict(model), asdict(augment), asdict(recipe), inputs=(*LABELS, *task.inputs))
    run = fit(
        learner,
        recipe=recipe,
        batches=batches,
        compute_losses=with_averaged_gradients(network, losses, ranks),
        weights=task.weights,
        evaluate=lambda model: evaluate(model).stats,
        state=state,
        freeze_norm_epochs=recipe.freeze_norm_epochs,
    )
    return Trained(learner, run, meta, batches, state)


def training_batches(
    dataset: DetectionDataset,
    *,
    recipe: LoopParams,
    augment: AugmentParams,
    meta: Mapping[str, Any],
    workers: int,
    ranks: Ranks | None = None,
) -> tuple[Callable[..., Iterable], int]:
    """Batches of an epoch, from its beginning or from a later one on; and their number per epoch.

    Each of several processes gets its share of every batch. The last `plain_epochs` epochs are only flipped: the
    network, and above all its batch-norm statistics, settle on images as they are in use. `meta` as of a checkpoint.

    Raises:
        UserError: `augment.multi_scale` is too small for the network's strides.
    """
    from yolov6core.data.augment import TrainTransform
    from yolov6core.data.loader import batch_sizes, epoch_plan, planned_batches
    from yolov6core.training.distributed import Ranks

    settings = asdict(augment)
    multi_scale = settings.pop("multi_scale")
    image_size, stride = tuple(meta["image_size"]), max(meta["model"]["strides"])
    full = TrainTransform(dataset, image_size=image_size, **settings)
    flips = {name: value for name, value in settings.items() if name.startswith("flip")}
    plain = TrainTransform(dataset, image_size=image_size, **(dict.fromkeys(settings, 0.0) | flips))

    share = (ranks or Ranks()).share

    def plan(epoch: int) -> list[list[int]]:
        whole = epoch_plan(len(dataset), batch_size=recipe.batch_size, seed=recipe.seed, epoch=epoch)
        return [share(indices) for indices in whole]

    count = len(plan(0))

    def sizes(epoch: int, change: float) -> list[tuple[int, int]]:
        return batch_sizes(count, image_size=image_size, change=change, stride=stride, seed=recipe.seed, epoch=epoch)

    def batches(epoch: int, first: int = 0) -> Iterable:
        transform, change = (full, multi_scale) if epoch < recipe.epochs - recipe.plain_epochs else (plain, 0.0)
        return planned_batches(
            transform,
            plan(epoch)[first:],
            seed=recipe.seed,
            epoch=epoch,
            workers=workers,
            sizes=sizes(epoch, change)[first:],
        )

    try:
        sizes(0, multi_scale)
    except ValueError as error:
        raise UserError(f"augment.multi_scale: {error}") from None
    return batches, count


@dataclass(frozen=True)
class Optimisation:
    """How steps are made of gradients.

    Attributes:
        optimizer: `sgd` or `adamw`.
        constant: learning rate without decay.
        max_norm: largest gradient norm.
        accumulate: batches of one step.
        scaled_on: device of a float16 training, whose loss is scaled; None for others.
    """

    optimizer: str = "sgd"
    constant: bool = False
    max_norm: float = 10.0
    accumulate: int = 1
    scaled_on: str | None = None

    @classmethod
    def of(cls, recipe: RecipeParams, *, device: str) -> Optimisation:
        """What a recipe says."""
        return cls(
            optimizer=recipe.optimizer,
            constant=recipe.schedule == "constant",
            max_norm=recipe.max_norm,
            accumulate=(recipe.accumulate_to or recipe.batch_size) // recipe.batch_size,
            scaled_on=device if recipe.amp == "fp16" else None,
        )


def make_learner(
    model: nn.Module,
    *,
    recipe: LoopParams,
    steps_per_epoch: int,
    scale_lr: float = 1.0,
    how: Optimisation = Optimisation(),
) -> Learner:
    """Optimiser, schedule with warm-up, weight averaging: all bounded by the length of the run.

    `steps_per_epoch` counts batches.
    """
    import torch

    from yolov6core.training.ema import ModelEma
    from yolov6core.training.loop import Learner
    from yolov6core.training.schedule import OPTIMIZERS, Schedule, bounded_warmup

    steps_per_epoch = math.ceil(steps_per_epoch / how.accumulate)
    total = recipe.epochs * steps_per_epoch
    schedule = Schedule(
        base_lr=recipe.lr,
        final_factor=1.0 if how.constant else recipe.final_lr_factor,
        total_steps=total,
        warmup_steps=bounded_warmup(recipe.warmup_epochs, steps_per_epoch, total),
        momentum=recipe.momentum,
        warmup_momentum=min(0.8, recipe.momentum),
        warmup_bias_lr=recipe.lr,
    )
    optimizer = OPTIMIZERS[how.optimizer](
        model, momentum=recipe.momentum, weight_decay=recipe.weight_decay, scale_lr=scale_lr
    )
    return Learner(
        model,
        optimizer,
        schedule,
        ModelEma(model, total_steps=total),
        max_norm=how.max_norm,
        accumulate=how.accumulate,
        scaler=torch.amp.GradScaler(how.scaled_on) if how.scaled_on else None,
    )


def select_evaluation(
    meta: Mapping[str, Any], *, batch_size: int, ranks: Ranks | None = None, rectangular: bool = False
) -> Callable[[nn.Module], EvalResult]:
    """Model -> COCO figures on the split that exists for choosing. `meta` as of a checkpoint of the model.

    Several processes share the images, and all get the figures of the whole split. `rectangular`: see `evaluate_split`.
    """
    how = {"batch_size": batch_size, "rectangular": rectangular}
    if ranks is None or ranks.count == 1:
        return lambda model: evaluate_split(model, dict(meta), "select", **how)

    from yolov6core.data.dataset import DetectionDataset
    from yolov6core.evaluation.coco_map import coco_metrics

    def evaluate_shares(model: nn.Module) -> EvalResult:
        found = evaluate_split(model, dict(meta), "select", part=(ranks.rank, ranks.count), **how)
        detections = {image: rows for part in ranks.gather(found.detections) for image, rows in part.items()}
        coco = coco_metrics(DetectionDataset(DATASET, "select").ground_truth(), detections)
        return replace(found, stats=coco.stats, per_class=coco.per_class, detections=detections, coco=coco)

    return evaluate_shares
