"""`qat-distill`: fine-tuning with fake quantizers, the float network as the teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from stages._evaluation import DATASET, evaluate_split, network_input
from stages._fit import LoopParams
from stages._params import DEFAULT_PARAMS, AugmentParams, Bounds, ParamsFile, RuntimeParams, read_params
from stages._report import StageError, logger, need, replace_folder, set_threads, stage_errors, write_json

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stages._fit import Fit
    from yolov6core.quant.insert import QuantizedModel

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

    def __post_init__(self) -> None:
        if not self.detection + self.match_class + self.match_box + self.features:
            raise ValueError("all of detection, match_class, match_box and features are 0; nothing would be learned")


def qat_distill_cli(params: ParamsFile = DEFAULT_PARAMS) -> None:
    """Fine-tune the calibrated network with fake quantizers: artifacts/qat, metrics/qat.json."""
    augment, qat, runtime = read_params(params, augment=AugmentParams, qat=QatParams, runtime=RuntimeParams)
    with stage_errors():
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
    from stages._training import LABELS, make_learner, select_evaluation, training_batches
    from yolov6core.data.dataset import DetectionDataset
    from yolov6core.quant.insert import fix_ranges_, learn_ranges_

    set_threads(runtime.threads)
    torch.manual_seed(qat.seed)
    teacher, _ = load_float_model(FLOAT_WEIGHTS, device=runtime.device)
    student, meta = load_quantized(STARTS[qat.start], device=runtime.device)
    dataset = DetectionDataset(DATASET, "train", cache_mib=runtime.cache_mib)
    batches, steps = training_batches(
        dataset, recipe=qat, augment=augment, image_size=tuple(meta["image_size"]), workers=runtime.workers
    )
    evaluate = select_evaluation(meta, batch_size=qat.batch_size)
    start_map = evaluate(student)["map50_95"]
    logger.info("start (%s): select mAP50:95 %.4f", qat.start, start_map)
    if qat.scales == "learned":
        learn_ranges_(student)
    start_state = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    inputs = (*LABELS, FLOAT_WEIGHTS, STARTS[qat.start])
    if qat.keep_multipliers:
        _keep_multipliers(student, meta)
        inputs = (*inputs, SCALES)
    state = state_path("qat-distill", asdict(augment), asdict(qat), inputs=inputs)
    run = fit(
        make_learner(student, recipe=qat, steps_per_epoch=steps),
        recipe=qat,
        batches=batches,
        compute_losses=distillation_losses(student, teacher, meta=meta, qat=qat, device=runtime.device),
        weights=loss_weights(qat),
        evaluate=evaluate,
        state=state,
    )
    if run.best_map < start_map:
        _explain(run, start_map, qat)
        run.best_map, run.best_epoch, run.best_state = start_map, 0, start_state
    student.load_state_dict(run.best_state)
    fix_ranges_(student)
    if qat.scales == "reestimate" and run.best_epoch:
        _reestimate(student, run, meta, evaluate=evaluate, device=runtime.device)
    _write(student, run, meta)
    finish(state)


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


def _explain(run: Fit, start_map: float, qat: QatParams) -> None:
    best = max((row["map50_95"], row["epoch"]) for row in run.rows if "map50_95" in row)
    logger.warning(
        "no epoch beat the start on the select split: mAP50:95 %.4f at best (epoch %d), %.4f at the start, which is "
        "kept. Try a lower qat.lr (now %g), more qat.epochs (now %d), larger weights of match_class, match_box and "
        "features, or other qat.scales (now %s). A start as good as the float network leaves nothing to gain",
        *best,
        start_map,
        qat.lr,
        qat.epochs,
        qat.scales,
    )


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
    score = evaluate(student)["map50_95"]
    better = score >= run.best_map
    logger.info(
        "ranges calibrated again (%s): select mAP50:95 %.4f, %.4f with those of the start: kept the %s",
        method,
        score,
        run.best_map,
        "new" if better else "old",
    )
    if better:
        run.best_map = score
    else:
        set_ranges_(student, before)


def loss_weights(qat: QatParams) -> dict[str, float]:
    """Factor of every term that `distillation_losses` gives."""
    from stages._losses import LOSS_WEIGHTS

    detection = {name: qat.detection * weight for name, weight in LOSS_WEIGHTS.items()}
    matching = {name: getattr(qat, name) for name in ("match_class", "match_box", "match_dfl", "features")}
    return detection | matching


def distillation_losses(
    student: nn.Module, teacher: nn.Module, *, meta: Mapping[str, Any], qat: QatParams, device: str
) -> Callable[[Any, int], dict[str, Tensor]]:
    """(batch, epoch) -> detection terms, output matching, channel-wise feature distillation, where they count.

    Labels are read for the detection terms only.
    """
    import torch

    from stages._losses import detection_criterion
    from yolov6core.losses.distill import channel_wise_kl, matching_terms

    criterion = detection_criterion(meta, iou=qat.iou, atss_epochs=0)
    names = distilled_maps(teacher) if qat.features else []
    student_maps, teacher_maps = record_outputs(student, names), record_outputs(teacher, names)
    matching = bool(qat.match_class + qat.match_box + qat.match_dfl)

    def compute(batch: Any, epoch: int) -> dict[str, Tensor]:
        images = network_input(batch[0], device)
        if matching or names:
            with torch.no_grad():
                teacher_raw = teacher(images)
        raw = student(images)
        terms: dict[str, Tensor] = {}
        if qat.detection:
            terms |= criterion(*raw, batch[1].to(device), image_size=tuple(images.shape[-2:]), epoch=epoch)
        if matching:
            terms |= matching_terms(raw, teacher_raw, temperature=qat.temperature)
        if names:
            ours, theirs = ([maps[name] for name in names] for maps in (student_maps, teacher_maps))
            terms["features"] = channel_wise_kl(ours, theirs, temperature=qat.temperature)
        return terms

    return compute


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
