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
    from yolov6core.models.detector import Detector
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
    """The parameter sections of a training of the float network."""

    model: ModelParams
    augment: AugmentParams
    recipe: RecipeParams
    runtime: RuntimeParams


@dataclass(frozen=True)
class Architecture:
    """What a training adds to the variant: the form of its 3x3 blocks, and the head's branch for training."""

    block: str
    branch: str = "none"


@dataclass(frozen=True)
class Trained:
    """A finished training: the last weights in `learner`, the best in `run`, and what its checkpoint says."""

    learner: Learner
    run: Fit
    meta: dict[str, Any]
    batches: Callable[[int], Iterable]
    state: Path


def train_float(
    stage: str,
    sections: Sections,
    *,
    architecture: Architecture,
    inputs: tuple[Path, ...] = (),
    start: Callable[[nn.Module], None] = lambda network: None,
    scale_lr: float = 1.0,
) -> Trained:
    """Train a network on the train split.

    Args:
        stage: name of the command, under which an interrupted run keeps its state.
        sections: all that the run depends on, beside the dataset and `inputs`.
        architecture: what is built of the variant.
        inputs: further files that the run depends on.
        start: called with the fresh network, on its device, before the first step.
        scale_lr: factor on the learning rate of branch scales.
    """
    import torch

    from yolov6core.data.dataset import DetectionDataset

    model, augment, recipe, runtime = sections.model, sections.augment, sections.recipe, sections.runtime
    set_threads(runtime.threads)
    torch.manual_seed(recipe.seed)
    dataset = DetectionDataset(need(DATASET, "prepare-voc2yolo"), "train", cache_mib=runtime.cache_mib)
    meta = network_meta(model, architecture, names=dataset.names)
    network = fresh_network(meta)
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
    model: Detector, *, meta: Mapping[str, Any], recipe: RecipeParams, device: str
) -> Callable[[Any, int], Mapping[str, Tensor]]:
    """(batch, epoch) -> detection loss terms of `model`. `meta` as of a checkpoint of the model.

    With a branch of anchors, the terms of anchor-aided training (2301.05586, section 2.2) are added to the others.
    """
    from yolov6core.losses.anchor_aided import AnchorAidedLoss

    criterion = detection_criterion(meta, iou=recipe.iou, atss_epochs=recipe.atss_epochs)
    aided = AnchorAidedLoss(num_classes=criterion.num_classes, strides=criterion.strides, iou_type=recipe.iou)
    image_size = tuple(meta["image_size"])

    def compute(batch: Any, epoch: int) -> Mapping[str, Tensor]:
        images, targets = network_input(batch[0], device), batch[1].to(device)
        output = model.training_output(images)
        terms = criterion(output.cls_logits, output.distances, targets, image_size=image_size, epoch=epoch)
        if output.branch is not None:
            beside = aided(*output.branch, targets, image_size=image_size)
            terms |= {f"anchor_{name}": term for name, term in beside.items()}
        return terms

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


def network_meta(model: ModelParams, architecture: Architecture, *, names: Sequence[str]) -> dict[str, Any]:
    """What a checkpoint of a network says about it; StageError for a variant or size that does not exist."""
    from yolov6core.models.variants import variant

    try:
        spec = variant(model.variant)
    except ValueError as error:
        raise StageError(f"model.variant: {error}") from None
    coarsest = max(spec.strides)
    if any(side % coarsest for side in model.size):
        raise StageError(
            f"model.image_size is {list(model.size)}; both sides have to be multiples of {coarsest} for {model.variant}"
        )
    return {
        "model": spec.to_meta(),
        "variant": model.variant,
        "block": block_form(model, architecture),
        "branch": architecture.branch,
        "names": list(names),
        "image_size": list(model.size),
    }


def block_form(model: ModelParams, architecture: Architecture) -> str:
    """The form of the 3x3 blocks, looked up where the variant's published one is asked for."""
    from yolov6core.models.variants import VARIANTS

    return VARIANTS[model.variant].block if architecture.block == "published" else architecture.block


def fresh_network(meta: Mapping[str, Any]) -> Detector:
    """The network that `meta` describes, with fresh weights, in training form; StageError if there is no such one."""
    from yolov6core.models.detector import build_detector
    from yolov6core.models.variants import ModelSpec

    spec = ModelSpec.from_meta(meta["model"])
    try:
        return build_detector(spec, num_classes=len(meta["names"]), block=meta["block"], branch=meta["branch"])
    except ValueError as error:
        raise StageError(f"model.variant {meta['variant']}: {error}") from None


LOSS_WEIGHTS = {"class": 1.0, "iou": 2.5, "dfl": 0.5, "anchor_class": 1.0, "anchor_iou": 2.5}
"""Weights of the detection terms (YOLOv6, 2209.02976), and of the same terms of the anchor-based branch."""


def select_evaluation(meta: Mapping[str, Any], *, batch_size: int) -> Callable[[nn.Module], Mapping[str, float]]:
    """Model -> COCO figures on the split that exists for choosing. `meta` as of a checkpoint of the model."""
    return lambda model: evaluate_split(model, dict(meta), "select", batch_size=batch_size).stats
