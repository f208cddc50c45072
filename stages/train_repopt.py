"""`train-repopt`: the float training, with RepOptimizer's gradient multipliers by default."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import torch

from stages.params import AugmentParams, EvalParams, ModelParams, RuntimeParams, TrainParams
from stages.shared import paths
from stages.shared.limits import limits_of
from stages.shared.shell import finish, required
from stages.shared.start_line import log_start
from stages.shared.trainings import Setup, TrainingSections, card_of, spread_over_devices, train_float, write_no_epochs
from yolov6core.base.atomic import replace_folder, write_json
from yolov6core.base.errors import UserError, logger
from yolov6core.base.tables import write_rows
from yolov6core.base.threads import describe_device, set_threads
from yolov6core.data.dataset import DetectionDataset
from yolov6core.evaluation.class_table import log_classes
from yolov6core.evaluation.evaluator import DetectionLimits, EvalResult
from yolov6core.evaluation.plots import batch_picture, save_jpeg, stack_rows
from yolov6core.models.card import NetworkCard
from yolov6core.models.detector import Detector
from yolov6core.pretrained.weights import GivenWeights, load_weights_, read_weights
from yolov6core.tasks.detection import DetectionTask
from yolov6core.tasks.evaluation import SplitEvaluator
from yolov6core.tasks.float_training import Task, Trained
from yolov6core.tasks.networks import fresh_network, save_float
from yolov6core.tasks.self_distillation import SelfDistillationTask, TeacherWeights
from yolov6core.training.repopt import apply_scales_, attach_multipliers, load_scales

METRICS = paths.METRICS / "train.json"
WEIGHTS = paths.WEIGHTS["float"].name
BATCHES_SHOWN = 3
"""Batches of the first epoch in `batch.jpg`, as the network gets them."""
EVAL_BATCH = 16
"""Images of a batch in the evaluation on val."""


def train_repopt(
    model: ModelParams,
    augment: AugmentParams,
    train: TrainParams,
    evaluation: EvalParams,
    runtime: RuntimeParams,
    *,
    command: Sequence[str],
) -> None:
    """Write `weights.safetensors` (averaged, best on select) and the val metrics; of a training also its epochs.

    Raises:
        UserError: missing inputs, or given weights, scales or a teacher that do not fit.
    """
    if train.epochs and spread_over_devices(command, train, runtime):
        return
    required(paths.SCALES_FILE, made_by="search-scales")
    if train.teacher is not None and not Path(train.teacher).is_file():
        raise UserError(f"train.teacher: {train.teacher} does not exist; give the weights.safetensors of a training")
    given = None if train.weights is None else read_weights(Path(train.weights))
    if train.epochs == 0:
        assert given is not None, "the section does not allow it"
        set_threads(runtime.threads)
        log_start("train-repopt", "torch", device=describe_device("cpu"))
        _use_as_given(given, model, train, limits=limits_of(evaluation))
        return
    if given is not None and given.deployed:
        raise UserError(
            f"train.weights: batch norm is folded in {given.path}, so it cannot be trained further; set train.epochs "
            "to 0 to use it as it is, or give an unfused checkpoint"
        )
    _train(TrainingSections(model, augment, train, runtime), train, given, limits=limits_of(evaluation))


def _train(
    sections: TrainingSections, train: TrainParams, given: GivenWeights | None, *, limits: DetectionLimits
) -> None:
    files = [paths.SCALES_FILE, *([given.path] if given else []), *([Path(train.teacher)] if train.teacher else [])]

    def start(network: Detector, block: str) -> None:
        if given is not None:
            _load(network, given, block=block, reinit=train.reinit)
        if block == "repopt":
            _use_scales(network, seed=train.seed, reinitialize=given is None)

    trained, card, state = train_float(
        "train-repopt",
        sections,
        block=train.block,
        aux_head=train.aux_head,
        make_task=lambda network, setup: _task(network, setup, train),
        start=start,
        limits=limits,
        inputs=tuple(files),
    )
    if not trained.main:
        return
    trained.network.load_state_dict(trained.run.best_state)
    _write(trained, card, limits=limits)
    finish(state)


def _task(network: Detector, setup: Setup, train: TrainParams) -> Task:
    labels = {"iou": train.iou, "atss_warmup_epochs": train.atss_warmup_epochs, "processes": setup.processes}
    if train.teacher is None:
        return DetectionTask(network, setup.card, setup.recipe, **labels)
    weights = TeacherWeights(train.distill_class, train.distill_dfl, train.distill_features)
    return SelfDistillationTask(
        network, setup.card, setup.recipe, teacher=Path(train.teacher), teacher_weights=weights, **labels
    )


def _use_as_given(given: GivenWeights, model: ModelParams, train: TrainParams, *, limits: DetectionLimits) -> None:
    """Given weights as the float network, without training."""
    dataset = DetectionDataset(required(paths.DATASET, made_by="prepare-voc2yolo"), "val")
    card = card_of(model, names=dataset.names, block=train.block, aux_head=train.aux_head, deployed=given.deployed)
    network = fresh_network(card)
    _load(network, given, block=card.block, reinit=train.reinit)
    if given.names and given.names != card.names:
        logger.warning(
            "the file's classes are called %s, the dataset's %s", ", ".join(given.names), ", ".join(card.names)
        )
    result = SplitEvaluator(dataset, card, batch_size=EVAL_BATCH, limits=limits)(network)
    with replace_folder(paths.TRAIN) as folder:
        save_float(folder / WEIGHTS, network, card)
        write_no_epochs(folder)
    _write_metrics(result, f"as given in {given.path}")


def _load(network: Detector, given: GivenWeights, *, block: str, reinit: list[str]) -> None:
    match = load_weights_(network, given, block=block, reinit=reinit)
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
    """Multiply gradients as the scales say; start from their kernels unless there are trained ones."""
    scales, _ = load_scales(paths.SCALES_FILE)
    if not scales:
        raise UserError(
            f"{paths.SCALES_FILE} holds no scales, as search.scales is none; train.block repopt needs them: set it to "
            "null"
        )
    try:
        if reinitialize:
            apply_scales_(network, scales, generator=torch.Generator().manual_seed(seed))
        attach_multipliers(network, scales)
    except ValueError as error:
        raise UserError(f"{paths.SCALES_FILE}: {error}") from None


def _write(trained: Trained, card: NetworkCard, *, limits: DetectionLimits) -> None:
    val = DetectionDataset(paths.DATASET, "val")
    result = SplitEvaluator(val, card, batch_size=EVAL_BATCH, limits=limits)(trained.network)
    with replace_folder(paths.TRAIN) as folder:
        save_float(folder / WEIGHTS, trained.network, card)
        write_rows(folder / "epochs.csv", trained.run.rows)
        write_rows(folder / "selection.csv", trained.run.evaluations())
        pictures = [batch_picture(*batch, card.names) for batch in islice(trained.batches(0), BATCHES_SHOWN)]
        save_jpeg(stack_rows(pictures), folder / "batch.jpg")
    _write_metrics(result, f"epoch {trained.run.best_epoch} was best on select")


def _write_metrics(result: EvalResult, source: str) -> None:
    scores = result.stats
    if scores["map50_95"] <= 0:
        logger.warning("the network finds nothing on val: train it longer, or look at the data and the losses")
    write_json(METRICS, {"map50_95": scores["map50_95"], "map50": scores["map50"]})
    log_classes({"float": result})
    logger.info(
        "float: val mAP50:95 %.4f, mAP50 %.4f (%s) -> %s", scores["map50_95"], scores["map50"], source, paths.TRAIN
    )
