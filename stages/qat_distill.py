"""`qat-distill`: fine-tuning with fake quantizers, the float network as the teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from stages._devices import check_devices, run_on_devices
from stages._evaluation import DATASET, evaluate_split, network_input
from stages._fit import LoopParams
from stages._judge import Judge
from stages._params import DEFAULT_PARAMS, AugmentParams, Bounds, ParamsFile, RuntimeParams, read_params
from stages._report import need, set_threads, stage_errors
from yolov6core.atomic import replace_folder, write_json
from yolov6core.errors import StageError, logger

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stages._fit import Fit
    from yolov6core.quant.insert import QuantizedModel
    from yolov6core.training.distributed import Ranks

STARTS = {
    "ptq": Path("artifacts/ptq/weights.safetensors"),
    "partial": Path("artifacts/sensitivity/weights.safetensors"),
}
SCALES = Path("artifacts/scales/scales.safetensors")
OUT = Path("artifacts/qat")
METRICS = Path("metrics/qat.json")
Weight = Annotated[float, Bounds(0, None)]


@dataclass(frozen=True)
class QatParams(LoopParams):
    """Section `qat`: the fine-tuning, where it starts, what becomes of the scales, and how much each loss term counts.

    A weight of 0 leaves its term out. `match_dfl` counts only where the network has distance bins.
    """

    start: Literal["ptq", "partial"]
    scales: Literal["fixed", "learned", "reestimate"]
    keep_multipliers: bool
    detection: Weight
    match_class: Weight
    match_box: Weight
    match_dfl: Weight
    features: Weight
    temperature: Annotated[float, Bounds(0.01, 100)]
    devices: Annotated[int, Bounds(1, 1024)] | Literal["auto"]

    def __post_init__(self) -> None:
        if not self.detection + self.match_class + self.match_box + self.features:
            raise ValueError("all of detection, match_class, match_box and features are 0; nothing would be learned")


def qat_distill_cli(params: ParamsFile = DEFAULT_PARAMS) -> None:
    """Fine-tune the calibrated network with fake quantizers: artifacts/qat, metrics/qat.json."""
    augment, qat, runtime = read_params(params, augment=AugmentParams, qat=QatParams, runtime=RuntimeParams)
    with stage_errors():
        if not run_on_devices("qat-distill", qat, runtime, params):
            qat_distill(augment, qat, runtime)


def qat_distill(augment: AugmentParams, qat: QatParams, runtime: RuntimeParams) -> None:
    """Write the fine-tuned `weights.safetensors`, `epochs.csv` and the val metrics.

    The start is a candidate like every evaluated epoch: if no epoch beats it on the select split, it is what comes out,
    and the log says so. Unless they are learned, activation scales stay as calibrated while those of weights follow the
    weights.
    """
    import torch

    from stages._fit import finish, fit, state_path
    from stages._models import FLOAT_WEIGHTS, load_float_model, load_quantized
    from stages._training import LABELS, make_learner, training_batches
    from yolov6core.data.dataset import DetectionDataset
    from yolov6core.quant.insert import fix_ranges_, learn_ranges_
    from yolov6core.training.distributed import join, with_averaged_gradients

    ranks = join(runtime.device)
    check_devices(qat.batch_size, ranks)
    set_threads(runtime.threads)
    torch.manual_seed(qat.seed)
    teacher, _ = load_float_model(FLOAT_WEIGHTS, device=ranks.device)
    student, meta = load_quantized(STARTS[qat.start], device=ranks.device)
    dataset = DetectionDataset(DATASET, "train", cache_mib=runtime.cache_mib)
    batches, steps = training_batches(
        dataset, recipe=qat, augment=augment, meta=meta, workers=runtime.workers, ranks=ranks
    )
    evaluate = _against(teacher, meta, batch_size=qat.batch_size, ranks=ranks)
    start = evaluate(student)
    logger.info("start (%s): %s", qat.start, _figures(start))
    if qat.scales == "learned":
        learn_ranges_(student)
    start_state = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    inputs = (*LABELS, FLOAT_WEIGHTS, STARTS[qat.start])
    if qat.keep_multipliers:
        _keep_multipliers(student, meta)
        inputs = (*inputs, SCALES)
    state = state_path("qat-distill", asdict(augment), asdict(qat), inputs=inputs)
    losses = distillation_losses(student, teacher, meta=meta, qat=qat, ranks=ranks)
    if ranks.count > 1:
        _freeze_unused(student, losses(next(iter(batches(0))), 0))
    learner = make_learner(student, recipe=qat, steps_per_epoch=steps)
    learner.ranks = ranks
    run = fit(
        learner,
        recipe=qat,
        batches=batches,
        compute_losses=with_averaged_gradients(student, losses, ranks),
        weights=loss_weights(qat),
        evaluate=evaluate,
        state=state,
    )
    _compare(run, start, start_state, qat=qat)
    student.load_state_dict(run.best_state)
    fix_ranges_(student)
    if qat.scales == "reestimate" and run.best_epoch:
        _reestimate(student, run, meta, evaluate=evaluate, device=ranks.device)
    if ranks.main:
        _write(student, run, meta)
        finish(state)


def _against(
    teacher: nn.Module, meta: dict[str, Any], *, batch_size: int, ranks: Ranks
) -> Callable[[nn.Module], dict[str, float]]:
    """Network -> its figures on select beside the teacher's, see `Judge`."""
    from stages._training import select_evaluation

    measure = select_evaluation(meta, batch_size=batch_size, ranks=ranks)
    judge = Judge(measure(teacher))
    return lambda network: judge(measure(network))


def _keep_multipliers(student: QuantizedModel, meta: dict[str, Any]) -> None:
    """Multiply gradients as the float training did. A block's one convolution has kept its name and shape."""
    from yolov6core.checkpoint import load_checkpoint
    from yolov6core.training.repopt import attach_multipliers, scales_from_tensors

    if meta["block"] != "repopt":
        raise StageError(
            f"qat.keep_multipliers: the float network has blocks of form {meta['block']!r}, and only repopt is trained "
            "with gradient multipliers; set it to false"
        )
    try:
        attach_multipliers(student, scales_from_tensors(load_checkpoint(need(SCALES, "search-scales"))[0]))
    except ValueError as error:
        raise StageError(f"qat.keep_multipliers: {SCALES}: {error}") from None


def _compare(run: Fit, start: Mapping[str, float], start_state: dict[str, Tensor], *, qat: QatParams) -> None:
    """Put the start in the place of the best epoch if none was as good, and say so."""
    if run.best_merit >= start["merit"]:
        return
    logger.warning(
        "no epoch beat the start on the select split: %s at best (epoch %d), %s at the start, which is "
        "kept. Try a lower qat.lr (now %g), more qat.epochs (now %d), larger weights of match_class, match_box and "
        "features, or other qat.scales (now %s). A start as good as the float network leaves nothing to gain",
        _figures(run.rows[run.best_epoch - 1]),
        run.best_epoch,
        _figures(start),
        qat.lr,
        qat.epochs,
        qat.scales,
    )
    run.best_merit, run.best_epoch, run.best_state = start["merit"], 0, start_state


def _figures(scores: Mapping[str, float]) -> str:
    return f"mAP50:95 {scores['map50_95']:.4f}, agreement with float {scores['agreement']:.4f}"


def _reestimate(
    student: QuantizedModel,
    run: Fit,
    meta: dict[str, Any],
    *,
    evaluate: Callable[[nn.Module], Mapping[str, float]],
    device: str,
) -> None:
    """Calibrate the trained weights by the method of the start; keep the new ranges unless select gets worse."""
    from stages._models import calibration_batches
    from yolov6core.quant.calibrate import collect, ranges
    from yolov6core.quant.insert import get_ranges, set_ranges_
    from yolov6core.quant.observers import Method

    kind, _, percentile = meta["quant"]["method"].partition("_")
    method = Method(kind, float(percentile) if percentile else None)
    before = get_ranges(student)
    statistics = collect(student, calibration_batches(meta, batch_size=16, device=device))
    set_ranges_(student, ranges(statistics, method))
    scores = evaluate(student)
    better = scores["merit"] >= run.best_merit
    logger.info("ranges calibrated again (%s): %s: kept the %s", method, _figures(scores), "new" if better else "old")
    if better:
        run.best_merit = scores["merit"]
    else:
        set_ranges_(student, before)


def loss_weights(qat: QatParams) -> dict[str, float]:
    """Factor of every term that `distillation_losses` gives."""
    from stages._losses import LOSS_WEIGHTS

    detection = {name: qat.detection * weight for name, weight in LOSS_WEIGHTS.items()}
    matching = {name: getattr(qat, name) for name in ("match_class", "match_box", "match_dfl", "features")}
    return detection | matching


def distillation_losses(
    student: nn.Module, teacher: nn.Module, *, meta: Mapping[str, Any], qat: QatParams, ranks: Ranks
) -> Callable[[Any, int], dict[str, Tensor]]:
    """(batch, epoch) -> detection terms, output matching, channel-wise feature distillation, where they count.

    Labels are read for the detection terms only. Each of several processes divides by what the whole batch has in mind.
    """
    import torch

    from stages._losses import detection_criterion
    from yolov6core.losses.distill import channel_wise_kl, matching_terms

    criterion = detection_criterion(meta, iou=qat.iou, atss_epochs=0)
    criterion.normalise_over(ranks.count, ranks.sum)
    names = distilled_maps(teacher) if qat.features else []
    student_maps, teacher_maps = record_outputs(student, names), record_outputs(teacher, names)
    matching = bool(qat.match_class + qat.match_box + qat.match_dfl)

    def compute(batch: Any, epoch: int) -> dict[str, Tensor]:
        images = network_input(batch[0], ranks.device)
        if matching or names:
            with torch.no_grad():
                teacher_raw = teacher(images)
        raw = student(images)
        terms: dict[str, Tensor] = {}
        if qat.detection:
            terms |= criterion(*raw, batch[1].to(ranks.device), image_size=tuple(images.shape[-2:]), epoch=epoch)
        if matching:
            share = _share_of_batch(teacher_raw[0], ranks)
            matched = matching_terms(raw, teacher_raw, temperature=qat.temperature)
            terms |= {name: share * term for name, term in matched.items()}
        if names:
            ours, theirs = ([maps[name] for name in names] for maps in (student_maps, teacher_maps))
            terms["features"] = channel_wise_kl(ours, theirs, temperature=qat.temperature)
        return terms

    return compute


def _freeze_unused(student: nn.Module, terms: Mapping[str, Tensor]) -> None:
    """Let go of parameters that no term of a batch depends on: processes would wait for gradients to average.

    Such are scales that the dialect does not use, and prediction layers where only features count.
    """
    sum(terms.values()).backward()
    for parameter in student.parameters():
        parameter.requires_grad_(parameter.grad is not None)
        parameter.grad = None


def _share_of_batch(teacher_logits: Tensor, ranks: Ranks) -> Tensor | float:
    """Factor that makes matching terms of this process's images, which are divided by the teacher's confidence in them
    (at least 1), terms whose mean over the processes is that of the whole batch. 1 for a process alone."""
    if ranks.count == 1:
        return 1.0
    confidence = teacher_logits.float().sigmoid().amax(dim=-1).sum()
    return ranks.count * confidence.clamp(min=1) / ranks.sum(confidence).clamp(min=1)


def distilled_maps(detector: nn.Module) -> list[str]:
    """Paths of the activations that end the head's stems, one a level, in a deployed and a quantized network."""
    paths = []
    for level, stem in enumerate(detector.head.stems):
        last = [name for name, _ in stem.named_modules() if name.split(".")[-1] == "act"][-1]
        paths.append(f"head.stems.{level}.{last}")
    return paths


def record_outputs(network: nn.Module, names: list[str]) -> dict[str, Tensor]:
    """A dictionary that holds, after each forward pass, what the named modules gave."""
    found: dict[str, Tensor] = {}
    for name in names:
        network.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: found.__setitem__(name, output)
        )
    return found


def _write(student: QuantizedModel, run: Fit, meta: dict[str, Any]) -> None:
    from stages._fit import write_rows
    from stages._models import save_quantized

    scores = evaluate_split(student, meta, "val", batch_size=16).stats
    with replace_folder(OUT) as folder:
        save_quantized(folder / "weights.safetensors", student, meta, method=meta["quant"]["method"])
        write_rows(folder / "epochs.csv", run.rows)
    write_json(METRICS, {"map50_95": scores["map50_95"], "map50": scores["map50"]})
    best = (
        f"epoch {run.best_epoch} was best on select" if run.best_epoch else "the start, no epoch was better on select"
    )
    logger.info("qat: val mAP50:95 %.4f, mAP50 %.4f (%s) -> %s", scores["map50_95"], scores["map50"], best, OUT)
