"""`qat-distill`: fine-tuning with fake quantizers, the float network as the teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from stages.params import AugmentParams, EvalParams, QatParams, RuntimeParams
from stages.shared import paths
from stages.shared.limits import limits_of
from stages.shared.shell import finish, required, state_path
from stages.shared.start_line import log_start
from stages.shared.trainings import recipe_of, resume_point, spread_over_devices, training_images
from yolov6core.base.atomic import replace_folder, write_json
from yolov6core.base.errors import UserError, logger
from yolov6core.base.progress import tracked
from yolov6core.base.tables import write_rows
from yolov6core.base.threads import compute_device, describe_device, set_threads
from yolov6core.data.dataset import DetectionDataset
from yolov6core.data.views import image_batches
from yolov6core.evaluation.class_table import log_classes
from yolov6core.evaluation.evaluator import DetectionLimits
from yolov6core.int8.float_comparison import FloatComparison
from yolov6core.int8.qat import QatTask, QatWeights, distilled_maps, freeze_unused_
from yolov6core.int8.qat_teacher import load_qat_teacher
from yolov6core.int8.quantized_networks import load_quantized, save_quantized
from yolov6core.models.card import NetworkCard
from yolov6core.quant.calibrate import collect, ranges
from yolov6core.quant.insert import QuantizedModel, fix_ranges_, get_ranges, learn_ranges_, set_ranges_
from yolov6core.quant.observers import Method
from yolov6core.quant.rectifiers import with_merged_rectifiers
from yolov6core.tasks.evaluation import SplitEvaluator
from yolov6core.tasks.float_training import training_batches
from yolov6core.tasks.networks import load_float
from yolov6core.training.devices import check_batch
from yolov6core.training.distributed import ProcessGroup, join, with_averaged_gradients
from yolov6core.training.fit import fit
from yolov6core.training.repopt import attach_multipliers, load_scales
from yolov6core.training.run import TrainingRun
from yolov6core.training.train_state import make_train_state

METRICS = paths.METRICS / "qat.json"
EVAL_BATCH = 16
"""Images of a batch in calibration and in the evaluation on val."""
Scores = Mapping[str, float]
Evaluate = Callable[[nn.Module], Scores]
"""Network -> its figures on select beside the float network's, see `FloatComparison`."""


def qat_distill(
    augment: AugmentParams, qat: QatParams, evaluation: EvalParams, runtime: RuntimeParams, *, command: Sequence[str]
) -> None:
    """Write the fine-tuned `weights.safetensors`, `epochs.csv` and the val metrics.

    The start is a candidate like every evaluated epoch: if no epoch beats it on the select split, it is the result, and
    the log says so. Unless they are learned, activation scales stay as calibrated while those of weights follow the
    weights.

    Raises:
        UserError: missing inputs, or as of `fit`.
    """
    if not spread_over_devices(command, qat, runtime):
        _fine_tune(augment, qat, runtime, limits=limits_of(evaluation))


def _fine_tune(augment: AugmentParams, qat: QatParams, runtime: RuntimeParams, *, limits: DetectionLimits) -> None:
    processes = join(compute_device(runtime.device))
    check_batch(qat.batch_size, processes)
    set_threads(runtime.threads)
    log_start("qat-distill", "torch", device=describe_device(processes.device, processes=processes.count))
    torch.manual_seed(qat.seed)
    float_weights, start_weights = (
        required(paths.WEIGHTS[kind], made_by=paths.MADE_BY[kind]) for kind in ("float", qat.start)
    )
    network, _ = load_float(float_weights, device=processes.device)
    student, card = load_quantized(start_weights, device=processes.device)
    teacher = network if qat.teacher is None else _given_teacher(qat, student, card, device=processes.device)
    recipe = recipe_of(qat)
    dataset = training_images(card.image_size, runtime, processes)
    batches = training_batches(
        dataset, card, recipe, augment=augment.model_dump(), workers=runtime.workers, processes=processes
    )
    evaluate = _beside_float(network, card, batch_size=qat.batch_size, limits=limits, processes=processes)
    start = Start(evaluate(student), {})
    logger.info("start (%s): %s", qat.start, _figures(start.scores))
    if qat.scales == "learned":
        learn_ranges_(student)
    start.tensors.update({name: tensor.clone() for name, tensor in student.state_dict().items()})
    inputs = [*paths.training_labels(), float_weights, start_weights, *([Path(qat.teacher)] if qat.teacher else [])]
    if qat.keep_multipliers:
        _keep_multipliers(student, card)
        inputs.append(paths.SCALES_FILE)
    state_file = state_path("qat-distill", augment.model_dump(), qat.model_dump(), vars(limits), inputs=inputs)
    trained = with_merged_rectifiers(student, keep=distilled_maps(student))
    task = QatTask(
        trained, teacher, card, parts=_parts(qat), iou=qat.iou, temperature=qat.temperature, processes=processes
    )
    if processes.count > 1:
        freeze_unused_(trained, task(next(batches(0)), 0))
    run = fit(
        make_train_state(trained, recipe, batches_per_epoch=len(batches), processes=processes),
        recipe,
        batches=batches,
        losses=with_averaged_gradients(trained, task, processes),
        weights=task.weights,
        evaluate=evaluate,
        resume=resume_point(state_file, "qat-distill", runtime),
    )
    _keep_better(run, start, qat=qat)
    student.load_state_dict(run.best_state)
    fix_ranges_(student)
    if qat.scales == "reestimate" and run.best_epoch:
        _calibrate_again(student, run, card, evaluate=evaluate, device=processes.device)
    if processes.main:
        _write(student, run, card, limits=limits)
        finish(state_file)


@dataclass(frozen=True)
class Start:
    """The network before the fine-tuning: its figures on select, and its tensors."""

    scores: Scores
    tensors: dict[str, Tensor]


def _given_teacher(qat: QatParams, student: QuantizedModel, card: NetworkCard, *, device: str) -> nn.Module:
    assert qat.teacher is not None, "the caller asked"
    return load_qat_teacher(Path(qat.teacher), student, card, features=qat.distill_features > 0, device=device)


def _parts(qat: QatParams) -> QatWeights:
    return QatWeights(qat.detection, qat.distill_class, qat.distill_box, qat.distill_dfl, qat.distill_features)


def _beside_float(
    teacher: nn.Module, card: NetworkCard, *, batch_size: int, limits: DetectionLimits, processes: ProcessGroup
) -> Evaluate:
    select = DetectionDataset(paths.DATASET, "select")
    on_select = SplitEvaluator(select, card, batch_size=batch_size, limits=limits, processes=processes)
    compare = FloatComparison(on_select(teacher), on_select.truth)
    return lambda network: compare(on_select(network))


def _keep_multipliers(student: QuantizedModel, card: NetworkCard) -> None:
    """Multiply gradients as the float training did. A block's one convolution has kept its name and shape."""
    if card.block != "repopt":
        raise UserError(
            f"qat.keep_multipliers: the float network has blocks of form {card.block!r}, and only repopt is trained "
            "with gradient multipliers; set it to false"
        )
    try:
        scales, _ = load_scales(required(paths.SCALES_FILE, made_by="search-scales"))
        attach_multipliers(student, scales)
    except ValueError as error:
        raise UserError(f"qat.keep_multipliers: {paths.SCALES_FILE}: {error}") from None


def _keep_better(run: TrainingRun, start: Start, *, qat: QatParams) -> None:
    """Put the start in the place of the best epoch if no epoch was as good, and say so."""
    score = start.scores["selection_score"]
    if run.best_score >= score:
        return
    logger.warning(
        "no epoch beat the start on the select split: %s at best (epoch %d), %s at the start, which is "
        "kept. Try a lower qat.lr (now %g), more qat.epochs (now %d), larger weights of distill_class, distill_box and "
        "distill_features, or other qat.scales (now %s). A start as good as the float network leaves nothing to gain",
        _figures(run.rows[run.best_epoch - 1]),
        run.best_epoch,
        _figures(start.scores),
        qat.lr,
        qat.epochs,
        qat.scales,
    )
    run.best_score, run.best_epoch, run.best_state = score, 0, start.tensors


def _figures(scores: Scores) -> str:
    return f"mAP50:95 {scores['map50_95']:.4f}, agreement with float {scores['agreement']:.4f}"


def _calibrate_again(
    student: QuantizedModel, run: TrainingRun, card: NetworkCard, *, evaluate: Evaluate, device: str
) -> None:
    """Calibrate the trained weights by the method of the start; keep the new ranges unless select gets worse."""
    assert card.quantization is not None, "it was read as a quantized network"
    try:
        method = Method.parse(card.quantization.method)
    except ValueError as error:
        raise UserError(f"qat.scales reestimate: {error}; choose fixed or learned") from None
    before = get_ranges(student)
    dataset = DetectionDataset(paths.DATASET, "calib")
    batches = image_batches(
        dataset, image_size=card.image_size, shrink=card.shrink, batch_size=EVAL_BATCH, device=device
    )
    images = tracked(batches, "calibration", total=len(dataset), count=len)
    set_ranges_(student, ranges(collect(student, images), method))
    scores = evaluate(student)
    better = scores["selection_score"] >= run.best_score
    logger.info("ranges calibrated again (%s): %s: kept the %s", method, _figures(scores), "new" if better else "old")
    if better:
        run.best_score = scores["selection_score"]
    else:
        set_ranges_(student, before)


def _write(student: QuantizedModel, run: TrainingRun, card: NetworkCard, *, limits: DetectionLimits) -> None:
    assert card.quantization is not None, "it was read as a quantized network"
    val = DetectionDataset(paths.DATASET, "val")
    result = SplitEvaluator(val, card, batch_size=EVAL_BATCH, limits=limits)(student)
    scores = result.stats
    with replace_folder(paths.QAT) as folder:
        save_quantized(folder / paths.WEIGHTS["qat"].name, student, card, method=card.quantization.method)
        write_rows(folder / "epochs.csv", run.rows)
        write_rows(folder / "selection.csv", run.evaluations())
    write_json(METRICS, {"map50_95": scores["map50_95"], "map50": scores["map50"]})
    best = (
        f"epoch {run.best_epoch} was best on select" if run.best_epoch else "the start, no epoch was better on select"
    )
    log_classes({"qat": result})
    logger.info("qat: val mAP50:95 %.4f, mAP50 %.4f (%s) -> %s", scores["map50_95"], scores["map50"], best, paths.QAT)
