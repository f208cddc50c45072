"""`train-repopt`: the float training, with RepOptimizer's gradient multipliers by default."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stages._params import DEFAULT_PARAMS, AugmentParams, ModelParams, ParamsFile, RuntimeParams, read_params
from stages._report import StageError, logger, need, replace_folder, set_threads, stage_errors, write_json
from stages._training import RecipeParams

if TYPE_CHECKING:
    import torch
    from torch import nn

    from stages._training import Fit

DATASET = Path("artifacts/dataset")
SCALES = Path("artifacts/scales/scales.safetensors")
OUT = Path("artifacts/train")
METRICS = Path("metrics/train.json")


@dataclass(frozen=True)
class TrainParams(RecipeParams):
    """Section `train`: the training recipe and the form of the 3x3 blocks."""

    block: Literal["repopt", "repvgg"]


def train_repopt_cli(params: ParamsFile = DEFAULT_PARAMS) -> None:
    """Train the float network with RepOptimizer (or plain RepVGG blocks): artifacts/train, metrics/train.json."""
    model, augment, train, runtime = read_params(
        params, model=ModelParams, augment=AugmentParams, train=TrainParams, runtime=RuntimeParams
    )
    with stage_errors():
        train_repopt(model, augment, train, runtime)


def train_repopt(model: ModelParams, augment: AugmentParams, train: TrainParams, runtime: RuntimeParams) -> None:
    """Write `weights.safetensors` (averaged, best on select), `epochs.csv`, `batch.jpg` and the val metrics."""
    import torch

    from stages._training import (
        LOSS_WEIGHTS,
        detection_losses,
        finish,
        fit,
        make_learner,
        network_meta,
        select_evaluation,
        state_path,
        training_batches,
    )
    from yolov6core.data.dataset import DetectionDataset
    from yolov6core.models.detector import build_detector
    from yolov6core.models.variants import variant

    set_threads(runtime.threads)
    torch.manual_seed(train.seed)
    dataset = DetectionDataset(need(DATASET, "prepare-voc2yolo"), "train", cache_mib=runtime.cache_mib)
    need(SCALES, "search-scales")
    meta = network_meta(model, block=train.block, names=dataset.names)
    network = build_detector(variant(model.variant), num_classes=len(dataset.names), block=train.block)
    network.to(runtime.device, memory_format=torch.channels_last)
    if train.block == "repopt":
        _use_scales(network, seed=train.seed)
    batches, steps = training_batches(
        dataset, recipe=train, augment=augment, image_size=model.size, workers=runtime.workers
    )
    state = state_path(
        "train-repopt", asdict(model), asdict(augment), asdict(train), inputs=(DATASET / "train.txt", SCALES)
    )
    run = fit(
        make_learner(network, recipe=train, steps_per_epoch=steps),
        recipe=train,
        batches=batches,
        compute_losses=detection_losses(network, meta=meta, recipe=train, device=runtime.device),
        weights=LOSS_WEIGHTS,
        evaluate=select_evaluation(meta, batch_size=train.batch_size),
        state=state,
        freeze_norm_epochs=train.freeze_norm_epochs,
    )
    network.load_state_dict(run.best_state)
    _write(network, run, meta=meta, first_batch=next(iter(batches(0))))
    finish(state)


def _use_scales(network: nn.Module, *, seed: int) -> None:
    import torch

    from yolov6core.checkpoint import load_checkpoint
    from yolov6core.training.repopt import apply_scales_, attach_multipliers, scales_from_tensors

    scales = scales_from_tensors(load_checkpoint(SCALES)[0])
    try:
        apply_scales_(network, scales, generator=torch.Generator().manual_seed(seed))
    except ValueError as error:
        raise StageError(f"{SCALES}: {error}") from None
    attach_multipliers(network, scales)


def _write(
    network: nn.Module, run: Fit, *, meta: dict[str, Any], first_batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    from stages._evaluation import evaluate_split
    from stages._training import write_rows
    from yolov6core.checkpoint import save_checkpoint
    from yolov6core.evaluation.plots import batch_picture, save_jpeg

    scores = evaluate_split(network, meta, "val", batch_size=16).stats
    with replace_folder(OUT) as folder:
        save_checkpoint(folder / "weights.safetensors", network.state_dict(), meta)
        write_rows(folder / "epochs.csv", run.rows)
        save_jpeg(batch_picture(*first_batch, meta["names"]), folder / "batch.jpg")
    write_json(METRICS, {"map50_95": scores["map50_95"], "map50": scores["map50"]})
    logger.info(
        "float: val mAP50:95 %.4f, mAP50 %.4f (epoch %d was best on select) -> %s",
        scores["map50_95"],
        scores["map50"],
        run.best_epoch,
        OUT,
    )
