"""`train-repopt`: the float training, with RepOptimizer's gradient multipliers by default."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stages._evaluation import evaluate_split
from stages._params import DEFAULT_PARAMS, AugmentParams, ModelParams, ParamsFile, RuntimeParams, read_params
from stages._report import StageError, logger, need, replace_folder, stage_errors, write_json
from stages._training import RecipeParams, Sections

if TYPE_CHECKING:
    from torch import nn

    from stages._training import Trained

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
    from stages._fit import finish
    from stages._training import train_from_scratch

    need(SCALES, "search-scales")
    trained = train_from_scratch(
        "train-repopt",
        Sections(model, augment, train, runtime),
        block=train.block,
        inputs=(SCALES,),
        start=lambda network: _use_scales(network, seed=train.seed) if train.block == "repopt" else None,
    )
    network = trained.learner.model
    network.load_state_dict(trained.run.best_state)
    _write(network, trained)
    finish(trained.state)


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


def _write(network: nn.Module, trained: Trained) -> None:
    from stages._fit import write_rows
    from yolov6core.checkpoint import save_checkpoint
    from yolov6core.evaluation.plots import batch_picture, save_jpeg

    run, meta = trained.run, trained.meta
    scores = evaluate_split(network, meta, "val", batch_size=16).stats
    with replace_folder(OUT) as folder:
        save_checkpoint(folder / "weights.safetensors", network.state_dict(), meta)
        write_rows(folder / "epochs.csv", run.rows)
        save_jpeg(batch_picture(*next(iter(trained.batches(0))), meta["names"]), folder / "batch.jpg")
    write_json(METRICS, {"map50_95": scores["map50_95"], "map50": scores["map50"]})
    logger.info(
        "float: val mAP50:95 %.4f, mAP50 %.4f (epoch %d was best on select) -> %s",
        scores["map50_95"],
        scores["map50"],
        run.best_epoch,
        OUT,
    )
