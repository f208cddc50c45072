"""What scale search, float training and QAT put into a training run: data, losses, optimiser, the choice of weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from stages._evaluation import DATASET, evaluate_split, network_input
from stages._fit import Fit, LoopParams, fit, state_path
from stages._params import AugmentParams, Bounds, ModelParams, RuntimeParams
from stages._report import StageError, need, set_threads

if TYPE_CHECKING:
    from torch import Tensor, nn

    from yolov6core.data.dataset import DetectionDataset
    from yolov6core.losses.detection import DetectionLoss
    from yolov6core.training.loop import Learner

LABELS = tuple(
    DATASET / name for name in ("train.txt", "annotations/instances_train.json", "annotations/instances_select.json")
)
"""What trainings learn from and choose by: a run is continued only on the very same images and labels."""


@dataclass(frozen=True)
class RecipeParams(LoopParams):
    """What scale search and float training have in common beyond that: ATSS at first, fixed batch norm at last."""

    atss_epochs: Annotated[int, Bounds(0, 100_000)]
    freeze_norm_epochs: Annotated[int, Bounds(0, 100_000)]


@dataclass(frozen=True)
class Sections:
    """The parameter sections of a training from scratch."""

    model: ModelParams
    augment: AugmentParams
    recipe: RecipeParams
    runtime: RuntimeParams


@dataclass(frozen=True)
class Trained:
    """A finished training: the last weights in `learner`, the best in `run`, and what its checkpoint says."""

    learner: Learner
    run: Fit
    meta: dict[str, Any]
    batches: Callable[[int], Iterable]
    state: Path


def train_from_scratch(
    stage: str,
    sections: Sections,
    *,
    block: str,
    inputs: tuple[Path, ...] = (),
    start: Callable[[nn.Module], None] = lambda network: None,
    scale_lr: float = 1.0,
) -> Trained:
    """Train a fresh network on the train split.

    Args:
        stage: name of the command, under which an interrupted run keeps its state.
        sections: all that the run depends on, beside the dataset and `inputs`.
        block: form of the 3x3 blocks.
        inputs: further files that the run depends on.
        start: called with the network, on its device, before the first step.
        scale_lr: factor on the learning rate of branch scales.
    """
    import torch

    from yolov6core.data.dataset import DetectionDataset
    from yolov6core.models.detector import build_detector
    from yolov6core.models.variants import ModelSpec

    model, augment, recipe, runtime = sections.model, sections.augment, sections.recipe, sections.runtime
    set_threads(runtime.threads)
    torch.manual_seed(recipe.seed)
    dataset = DetectionDataset(need(DATASET, "prepare-voc2yolo"), "train", cache_mib=runtime.cache_mib)
    meta = network_meta(model, block=block, names=dataset.names)
    network = build_detector(ModelSpec.from_meta(meta["model"]), num_classes=len(dataset.names), block=block)
    network.to(runtime.device, memory_format=torch.channels_last)
    start(network)
    batches, steps = training_batches(
        dataset, recipe=recipe, augment=augment, image_size=model.size, workers=runtime.workers
    )
    learner = make_learner(network, recipe=recipe, steps_per_epoch=steps, scale_lr=scale_lr)
    state = state_path(stage, asdict(model), asdict(augment), asdict(recipe), inputs=(*LABELS, *inputs))
    run = fit(
        learner,
        recipe=recipe,
        batches=batches,
        compute_losses=detection_losses(network, meta=meta, recipe=recipe, device=runtime.device),
        weights=LOSS_WEIGHTS,
        evaluate=select_evaluation(meta, batch_size=recipe.batch_size),
        state=state,
        freeze_norm_epochs=recipe.freeze_norm_epochs,
    )
    return Trained(learner, run, meta, batches, state)


def training_batches(
    dataset: DetectionDataset, *, recipe: LoopParams, augment: AugmentParams, image_size: tuple[int, int], workers: int
) -> tuple[Callable[[int], Iterable], int]:
    """Batches of an epoch, and their number per epoch.

    The last `plain_epochs` epochs are only flipped: the network, and above all its batch-norm statistics, settle on
    images as they are in use.
    """
    from yolov6core.data.augment import TrainTransform
    from yolov6core.data.loader import epoch_plan, train_batches

    settings = asdict(augment)
    full = TrainTransform(dataset, image_size=image_size, **settings)
    flips = {name: value for name, value in settings.items() if name.startswith("flip")}
    plain = TrainTransform(dataset, image_size=image_size, **(dict.fromkeys(settings, 0.0) | flips))

    def batches(epoch: int) -> Iterable:
        transform = plain if epoch >= recipe.epochs - recipe.plain_epochs else full
        return train_batches(
            dataset, transform, batch_size=recipe.batch_size, seed=recipe.seed, epoch=epoch, workers=workers
        )

    return batches, len(epoch_plan(len(dataset), batch_size=recipe.batch_size, seed=recipe.seed, epoch=0))


def make_learner(model: nn.Module, *, recipe: LoopParams, steps_per_epoch: int, scale_lr: float = 1.0) -> Learner:
    """SGD with Nesterov momentum, cosine with warm-up, weight averaging: all bounded by the length of the run."""
    from yolov6core.training.ema import ModelEma
    from yolov6core.training.loop import Learner
    from yolov6core.training.schedule import Schedule, bounded_warmup, sgd

    total = recipe.epochs * steps_per_epoch
    schedule = Schedule(
        base_lr=recipe.lr,
        final_factor=recipe.final_lr_factor,
        total_steps=total,
        warmup_steps=bounded_warmup(recipe.warmup_epochs, steps_per_epoch, total),
        momentum=recipe.momentum,
        warmup_momentum=min(0.8, recipe.momentum),
        warmup_bias_lr=recipe.lr,
    )
    optimizer = sgd(model, momentum=recipe.momentum, weight_decay=recipe.weight_decay, scale_lr=scale_lr)
    return Learner(model, optimizer, schedule, ModelEma(model, total_steps=total))


def detection_losses(
    model: nn.Module, *, meta: Mapping[str, Any], recipe: RecipeParams, device: str
) -> Callable[[Any, int], Mapping[str, Tensor]]:
    """(batch, epoch) -> detection loss terms of `model`. `meta` as of a checkpoint of the model."""
    criterion = detection_criterion(meta, iou=recipe.iou, atss_epochs=recipe.atss_epochs)
    image_size = tuple(meta["image_size"])

    def compute(batch: Any, epoch: int) -> Mapping[str, Tensor]:
        images, targets = batch
        raw = model(network_input(images, device))
        return criterion(*raw, targets.to(device), image_size=image_size, epoch=epoch)

    return compute


def detection_criterion(meta: Mapping[str, Any], *, iou: str, atss_epochs: int) -> DetectionLoss:
    """The detection loss of the network that `meta` describes."""
    from yolov6core.losses.detection import DetectionLoss

    return DetectionLoss(
        num_classes=len(meta["names"]),
        strides=meta["model"]["strides"],
        reg_max=meta["model"]["reg_max"],
        iou_type=iou,
        warmup_epochs=atss_epochs,
    )


def network_meta(model: ModelParams, *, block: str, names: Sequence[str]) -> dict[str, Any]:
    """What a checkpoint of a fresh network says about it; StageError for an unknown variant."""
    from yolov6core.models.variants import variant

    try:
        spec = variant(model.variant)
    except ValueError as error:
        raise StageError(f"model.variant: {error}") from None
    return {
        "model": spec.to_meta(),
        "variant": model.variant,
        "block": block,
        "names": list(names),
        "image_size": list(model.size),
    }


LOSS_WEIGHTS = {"class": 1.0, "iou": 2.5, "dfl": 0.5}
"""Weights of the detection terms (YOLOv6, 2209.02976)."""


def select_evaluation(meta: Mapping[str, Any], *, batch_size: int) -> Callable[[nn.Module], Mapping[str, float]]:
    """Model -> COCO figures on the split that exists for choosing. `meta` as of a checkpoint of the model."""
    return lambda model: evaluate_split(model, dict(meta), "select", batch_size=batch_size).stats
