"""`train-repopt`: the float training, with RepOptimizer's gradient multipliers by default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from stages._devices import run_on_devices
from stages._evaluation import DATASET, evaluate_split
from stages._networks import Architecture
from stages._params import DEFAULT_PARAMS, AugmentParams, Bounds, ModelParams, ParamsFile, RuntimeParams, read_params
from stages._report import need, set_threads, stage_errors, warn_unless_in
from stages._training import RecipeParams, Sections, Task
from yolov6core.atomic import replace_folder, write_json
from yolov6core.errors import StageError, logger

if TYPE_CHECKING:
    from stages._training import Trained
    from stages._weights import GivenWeights
    from yolov6core.models.detector import Detector

SCALES = Path("artifacts/scales/scales.safetensors")
GIVEN = Path("pretrained/weights")
OUT = Path("artifacts/train")
METRICS = Path("metrics/train.json")
BATCHES_SHOWN = 3
"""Batches of the first epoch in `batch.jpg`, as the network gets them."""
Weight = Annotated[float, Bounds(0, None)]


@dataclass(frozen=True)
class TrainParams(RecipeParams):
    """Section `train`: the training recipe, what is built of the variant, and the weights that it starts from.

    `epochs` may be 0: given weights are then taken as they are.
    """

    epochs: Annotated[int, Bounds(0, 100_000)]
    block: Literal[
        "published", "repopt", "repvgg", "qarepvgg", "qarepvggv2", "conv_relu", "conv_silu", "conv_hardswish"
    ]
    branch: Literal["none", "anchors", "distribution"]
    weights: str | None
    new_tensors: list[str]
    teacher: str | None
    distill_class: Weight
    distill_dfl: Weight
    distill_features: Weight

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.teacher is not None and self.branch == "anchors":
            raise ValueError(
                "branch is anchors and teacher is set; the two are not combined: set branch to none or teacher to null"
            )
        if self.teacher is not None and not self.distill_class + self.distill_dfl + self.distill_features:
            raise ValueError("teacher is set, but distill_class, distill_dfl and distill_features are 0; raise one")
        if self.weights is None and self.epochs == 0:
            raise ValueError("epochs is 0, but weights is null; train for some epochs or give weights")
        if self.weights is None and self.new_tensors:
            raise ValueError(f"new_tensors is {self.new_tensors}, but weights is null; all tensors are new then")


def train_repopt_cli(params: ParamsFile = DEFAULT_PARAMS) -> None:
    """Train the float network with RepOptimizer (or other blocks): artifacts/train, metrics/train.json."""
    model, augment, train, runtime = read_params(
        params, model=ModelParams, augment=AugmentParams, train=TrainParams, runtime=RuntimeParams
    )
    with stage_errors():
        if train.epochs and run_on_devices("train-repopt", train, runtime, params):
            return
        train_repopt(model, augment, train, runtime)


def train_repopt(model: ModelParams, augment: AugmentParams, train: TrainParams, runtime: RuntimeParams) -> None:
    """Write `weights.safetensors` (averaged, best on select) and the val metrics; of a training also its course."""
    from stages._weights import read_weights

    need(SCALES, "search-scales")
    architecture = Architecture(train.block, train.branch)
    for where, path in (("train.weights", train.weights), ("train.teacher", train.teacher)):
        if path is not None:
            warn_unless_in(GIVEN, Path(path), where=where)
    given = None if train.weights is None else read_weights(Path(train.weights))
    if train.epochs == 0:
        _take(model, architecture, given, new_tensors=train.new_tensors, threads=runtime.threads)
        return
    if given is not None and given.deployed:
        raise StageError(
            f"train.weights: batch norm is folded in {given.path}, so it cannot be trained further; set train.epochs "
            "to 0 to use it as it is, or give an unfused checkpoint"
        )
    _train(Sections(model, augment, train, runtime), architecture, given)


def _train(sections: Sections, architecture: Architecture, given: GivenWeights | None) -> None:
    from stages._fit import finish
    from stages._losses import LOSS_WEIGHTS, detection_losses
    from stages._networks import block_form
    from stages._teacher import distillation_weights, self_distillation_losses
    from stages._training import train_float

    train = sections.recipe
    block = block_form(sections.model, architecture)

    def start(network: Detector) -> None:
        if given is not None:
            _load(network, given, block=block, new_tensors=train.new_tensors)
        if block == "repopt":
            _use_scales(network, seed=train.seed, reinitialize=given is None)

    inputs = [SCALES] if given is None else [SCALES, given.path]
    losses, weights = detection_losses, LOSS_WEIGHTS
    if train.teacher is not None:
        inputs.append(Path(train.teacher))
        losses, weights = self_distillation_losses, distillation_weights(train)
    task = Task(architecture, inputs=tuple(inputs), start=start, losses=losses, weights=weights)
    trained = train_float("train-repopt", sections, task)
    if not trained.main:
        return
    network = trained.learner.model
    network.load_state_dict(trained.run.best_state)
    _write(network, trained)
    finish(trained.state)


def _take(
    model: ModelParams,
    architecture: Architecture,
    given: GivenWeights,
    *,
    new_tensors: list[str],
    threads: int,
) -> None:
    """Given weights as the float network, without training."""
    from stages._networks import fresh_network, network_meta
    from yolov6core.checkpoint import save_checkpoint
    from yolov6core.data.dataset import DetectionDataset
    from yolov6core.models.blocks import deploy_

    set_threads(threads)
    names = DetectionDataset(need(DATASET, "prepare-voc2yolo"), "val", limit=1).names
    meta = network_meta(model, architecture, names=names) | {"deployed": given.deployed}
    network = fresh_network(meta).eval()
    if given.deployed:
        deploy_(network)
    _load(network, given, block=meta["block"], new_tensors=new_tensors)
    if given.names and tuple(given.names) != tuple(names):
        logger.warning("the file's classes are called %s, the dataset's %s", ", ".join(given.names), ", ".join(names))
    scores = evaluate_split(network, meta, "val", batch_size=16).stats
    with replace_folder(OUT) as folder:
        save_checkpoint(folder / "weights.safetensors", network.state_dict(), meta)
    _report(scores, f"as given in {given.path}")


def _load(network: Detector, given: GivenWeights, *, block: str, new_tensors: list[str]) -> None:
    from stages._weights import load_weights_

    match = load_weights_(network, given, block=block, new_tensors=new_tensors)
    logger.info(
        "%s (%s): %d tensors taken, %d new%s, %d of the file left out",
        given.path,
        given.found,
        match.matched,
        len(match.new),
        f" ({', '.join(match.new)})" if match.new else "",
        len(match.left_out),
    )


def _use_scales(network: Detector, *, seed: int, reinitialize: bool) -> None:
    """Multiply gradients by what the scales ask for; start from their kernels unless there are trained ones."""
    import torch

    from yolov6core.checkpoint import load_checkpoint
    from yolov6core.training.repopt import apply_scales_, attach_multipliers, scales_from_tensors

    scales = scales_from_tensors(load_checkpoint(SCALES)[0])
    if not scales:
        raise StageError(
            f"{SCALES} holds no scales, as search.scales is off; train.block repopt needs them: set it to null"
        )
    try:
        if reinitialize:
            apply_scales_(network, scales, generator=torch.Generator().manual_seed(seed))
        attach_multipliers(network, scales)
    except ValueError as error:
        raise StageError(f"{SCALES}: {error}") from None


def _write(network: Detector, trained: Trained) -> None:
    from stages._fit import write_rows
    from yolov6core.checkpoint import save_checkpoint
    from yolov6core.evaluation.plots import batch_picture, save_jpeg, stack_rows

    run, meta = trained.run, trained.meta
    scores = evaluate_split(network, meta, "val", batch_size=16).stats
    with replace_folder(OUT) as folder:
        save_checkpoint(folder / "weights.safetensors", network.state_dict(), meta)
        write_rows(folder / "epochs.csv", run.rows)
        pictures = [batch_picture(*batch, meta["names"]) for batch in islice(trained.batches(0), BATCHES_SHOWN)]
        save_jpeg(stack_rows(pictures), folder / "batch.jpg")
    _report(scores, f"epoch {run.best_epoch} was best on select")


def _report(scores: Mapping[str, float], source: str) -> None:
    write_json(METRICS, {"map50_95": scores["map50_95"], "map50": scores["map50"]})
    logger.info("float: val mAP50:95 %.4f, mAP50 %.4f (%s) -> %s", scores["map50_95"], scores["map50"], source, OUT)
