"""The training run that scale search, float training and QAT share: epochs, evaluation, best weights, resuming."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from stages._params import AugmentParams, Bounds, ModelParams, RuntimeParams
from stages._report import StageError, logger, need, set_threads

if TYPE_CHECKING:
    from torch import Tensor, nn

    from yolov6core.data.dataset import DetectionDataset
    from yolov6core.losses.detection import DetectionLoss
    from yolov6core.training.loop import Learner

DATASET = Path("artifacts/dataset")
STATE_ROOT = Path(".ckpt")
"""Where interrupted runs keep their state: ignored by Git and DVC, deleted when a run ends."""


@dataclass(frozen=True)
class LoopParams:
    """What every training has in common: length, optimisation, evaluation rhythm."""

    epochs: Annotated[int, Bounds(1, 100_000)]
    batch_size: Annotated[int, Bounds(1, 4096)]
    lr: Annotated[float, Bounds(0, 10)]
    final_lr_factor: Annotated[float, Bounds(0, 1)]
    momentum: Annotated[float, Bounds(0, 0.9999)]
    weight_decay: Annotated[float, Bounds(0, 1)]
    warmup_epochs: Annotated[float, Bounds(0, 1000)]
    plain_epochs: Annotated[int, Bounds(0, 100_000)]
    iou: Literal["iou", "giou", "diou", "ciou", "siou"]
    eval_every: Annotated[int, Bounds(1, 100_000)]
    seed: int


@dataclass(frozen=True)
class RecipeParams(LoopParams):
    """What scale search and float training have in common beyond that: ATSS at first, fixed batch norm at last."""

    atss_epochs: Annotated[int, Bounds(0, 100_000)]
    freeze_norm_epochs: Annotated[int, Bounds(0, 100_000)]


@dataclass
class Fit:
    """A run in progress, or its result: the best weights on the select split and one row an epoch."""

    best_map: float = -1.0
    best_epoch: int = 0
    best_state: dict[str, Tensor] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)


def fit(
    learner: Learner,
    *,
    recipe: LoopParams,
    batches: Callable[[int], Iterable],
    compute_losses: Callable[[Any, int], Mapping[str, Tensor]],
    weights: Mapping[str, float],
    evaluate: Callable[[nn.Module], Mapping[str, float]],
    state: Path,
    freeze_norm_epochs: int = 0,
) -> Fit:
    """Train for `recipe.epochs` epochs and keep the averaged weights that score best on the select split.

    Args:
        learner: model, optimiser, schedule and average; ends at the last step.
        recipe: needs `epochs` and `eval_every`; the last epoch is always evaluated.
        batches: epoch -> its batches, the same on every call.
        compute_losses: (batch, epoch) -> named unweighted terms.
        weights: factor of every term.
        evaluate: averaged model -> `map50_95` and `map50` on the select split.
        state: where an interrupted run continues from.
        freeze_norm_epochs: last epochs in which batch norm uses its stored statistics. In small batches an image with
            extreme activations normalises itself; in use it does not, and the weights should have seen that.
    """
    from yolov6core.training.loop import train_one_epoch
    from yolov6core.training.resume import load_state, save_state

    run, first = Fit(), 0
    if state.is_file():
        run.best_state, progress = load_state(state, learner)
        run.best_map, run.best_epoch, run.rows = progress["best_map"], progress["best_epoch"], progress["rows"]
        first = progress["next_epoch"]
        logger.info("continuing after epoch %d of %d from %s", first, recipe.epochs, state)
    for epoch in range(first, recipe.epochs):
        started = time.perf_counter()
        losses = train_one_epoch(
            learner,
            batches(epoch),
            lambda batch, epoch=epoch: compute_losses(batch, epoch),
            weights,
            freeze_norm=epoch >= recipe.epochs - freeze_norm_epochs,
        )
        row = {"epoch": epoch + 1, "lr": learner.schedule.lr(learner.step - 1), **losses}
        if (epoch + 1) % recipe.eval_every == 0 or epoch + 1 == recipe.epochs:
            row |= _keep_best(run, evaluate, learner.ema.model, epoch + 1)
        run.rows.append(row)
        _log_epoch(row, recipe.epochs, time.perf_counter() - started)
        progress = {"next_epoch": epoch + 1, **{k: v for k, v in vars(run).items() if k != "best_state"}}
        save_state(state, learner, extra=run.best_state, progress=progress)
    return run


def _keep_best(
    run: Fit, evaluate: Callable[[nn.Module], Mapping[str, float]], model: nn.Module, epoch: int
) -> dict[str, float]:
    scores = evaluate(model)
    if scores["map50_95"] > run.best_map:
        run.best_map, run.best_epoch = scores["map50_95"], epoch
        run.best_state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    return {"map50_95": scores["map50_95"], "map50": scores["map50"]}


def _log_epoch(row: Mapping[str, float], epochs: int, seconds: float) -> None:
    shown = "  ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "epoch")
    logger.info("epoch %d/%d  %s  (%.1f s)", row["epoch"], epochs, shown, seconds)


def finish(state: Path) -> None:
    """Drop the state of a run that has ended and whose outputs are written."""
    state.unlink(missing_ok=True)


def state_path(stage: str, *parts: Any, inputs: tuple[Path, ...] = ()) -> Path:
    """State file of a run, named after parameters, inputs and the project's code, so that no run resumes another."""
    import yolov6core
    from yolov6core.training.resume import fingerprint

    packages = (Path(__file__).parent, Path(yolov6core.__file__).parent)
    sources = sorted(path for package in packages for path in package.rglob("*.py"))
    return STATE_ROOT / stage / fingerprint(*parts, files=(*sources, *inputs)) / "state.safetensors"


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
    state = state_path(stage, asdict(model), asdict(augment), asdict(recipe), inputs=(DATASET / "train.txt", *inputs))
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


def network_input(images: Tensor, device: str) -> Tensor:
    """uint8 [B, 3, H, W] to float32 in 0..1 on `device`, channels last (the layout of the fastest convolutions)."""
    import torch

    return images.to(device, memory_format=torch.channels_last).float().div_(255)


LOSS_WEIGHTS = {"class": 1.0, "iou": 2.5, "dfl": 0.5}
"""Weights of the detection terms (YOLOv6, 2209.02976)."""


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Epoch rows as CSV; an epoch without evaluation leaves its cells empty."""
    import pandas as pd

    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).round(6).to_csv(path, index=False)


def select_evaluation(meta: Mapping[str, Any], *, batch_size: int) -> Callable[[nn.Module], Mapping[str, float]]:
    """Model -> COCO figures on the split that exists for choosing. `meta` as of a checkpoint of the model."""
    from stages._evaluation import evaluate_split

    return lambda model: evaluate_split(model, dict(meta), "select", batch_size=batch_size).stats
