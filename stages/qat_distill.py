"""`qat-distill`: fine-tuning with fake quantizers, the float network as the teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from stages._evaluation import DATASET, evaluate_split, network_input
from stages._fit import LoopParams
from stages._params import DEFAULT_PARAMS, AugmentParams, Bounds, ParamsFile, RuntimeParams, read_params
from stages._report import logger, replace_folder, set_threads, stage_errors, write_json

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stages._fit import Fit
    from yolov6core.quant.insert import QuantizedModel

STARTS = {
    "ptq": Path("artifacts/ptq/weights.safetensors"),
    "partial": Path("artifacts/sensitivity/weights.safetensors"),
}
OUT = Path("artifacts/qat")
METRICS = Path("metrics/qat.json")
Weight = Annotated[float, Bounds(0, None)]


@dataclass(frozen=True)
class QatParams(LoopParams):
    """Section `qat`: the fine-tuning, where it starts and how much each loss term counts (0 leaves it out)."""

    start: Literal["ptq", "partial"]
    detection: Weight
    match_class: Weight
    match_box: Weight
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

    Ranges of activations stay as calibrated, those of weights follow the weights. The start is a candidate like every
    evaluated epoch: if no epoch beats it on the select split, it is what comes out, and the log says so.
    """
    import torch

    from stages._fit import finish, fit, state_path
    from stages._models import FLOAT_WEIGHTS, load_float_model, load_quantized
    from stages._training import LABELS, make_learner, select_evaluation, training_batches
    from yolov6core.data.dataset import DetectionDataset

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
    start_state = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    logger.info("start (%s): select mAP50:95 %.4f", qat.start, start_map)
    state = state_path("qat-distill", asdict(augment), asdict(qat), inputs=(*LABELS, FLOAT_WEIGHTS, STARTS[qat.start]))
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
        logger.warning("no epoch beat the start on the select split (%.4f < %.4f): kept it", run.best_map, start_map)
        run.best_map, run.best_epoch, run.best_state = start_map, 0, start_state
    student.load_state_dict(run.best_state)
    _write(student, run, meta)
    finish(state)


def loss_weights(qat: QatParams) -> dict[str, float]:
    """Factor of every term that `distillation_losses` gives."""
    from stages._training import LOSS_WEIGHTS

    detection = {name: qat.detection * weight for name, weight in LOSS_WEIGHTS.items()}
    return detection | {"match_class": qat.match_class, "match_box": qat.match_box, "features": qat.features}


def distillation_losses(
    student: nn.Module, teacher: nn.Module, *, meta: Mapping[str, Any], qat: QatParams, device: str
) -> Callable[[Any, int], dict[str, Tensor]]:
    """(batch, epoch) -> detection terms, output matching, channel-wise feature distillation, where they count."""
    import torch

    from stages._training import detection_criterion
    from yolov6core.losses.distill import channel_wise_kl, output_matching

    criterion = detection_criterion(meta, iou=qat.iou, atss_epochs=0)
    names = neck_outputs(teacher)
    student_maps, teacher_maps = record_outputs(student, names), record_outputs(teacher, names)

    def compute(batch: Any, epoch: int) -> dict[str, Tensor]:
        images, targets = batch
        images, targets = network_input(images, device), targets.to(device)
        with torch.no_grad():
            teacher_raw = teacher(images)
        raw = student(images)
        terms: dict[str, Tensor] = {}
        if qat.detection:
            terms |= criterion(*raw, targets, image_size=tuple(images.shape[-2:]), epoch=epoch)
        if qat.match_class or qat.match_box:
            terms |= output_matching(raw, teacher_raw, temperature=qat.temperature)
        if qat.features:
            ours, theirs = ([maps[name] for name in names] for maps in (student_maps, teacher_maps))
            terms["features"] = channel_wise_kl(ours, theirs, temperature=qat.temperature)
        return terms

    return compute


def neck_outputs(detector: nn.Module) -> list[str]:
    """Paths of the activations that end the neck's three levels in a deployed Detector and what is made of it."""
    stages = {"neck.top_down.1": detector.neck.top_down[1]}
    stages |= {f"neck.bottom_up.{level}": detector.neck.bottom_up[level] for level in range(2)}
    return [f"{path}.{len(blocks) - 1}.act" for path, blocks in stages.items()]


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
    logger.info(
        "qat: val mAP50:95 %.4f, mAP50 %.4f (epoch %d was best on select) -> %s",
        scores["map50_95"],
        scores["map50"],
        run.best_epoch,
        OUT,
    )
