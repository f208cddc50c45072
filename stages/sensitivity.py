"""`sensitivity`: which layers suffer from INT8, and which stay float so that the stated mAP is held."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from stages._params import DEFAULT_PARAMS, Bounds, ParamsFile, RuntimeParams, read_params
from stages._report import logger, replace_folder, set_threads, stage_errors, write_json, write_text

if TYPE_CHECKING:
    from yolov6core.quant.insert import QuantizedModel
    from yolov6core.quant.sensitivity import Choice, LayerScore

PTQ_WEIGHTS = Path("artifacts/ptq/weights.safetensors")
OUT = Path("artifacts/sensitivity")
METRICS = Path("metrics/partial.json")


@dataclass(frozen=True)
class SensitivityParams:
    """Section `sensitivity`: how layers are ranked, and the budget of float ones."""

    metric: Literal["sqnr"]
    images: Annotated[int, Bounds(1, 100_000)]
    batch_size: Annotated[int, Bounds(1, 4096)]
    max_drop: Annotated[float, Bounds(0, 1)] | None
    max_layers: Annotated[int, Bounds(0, 10_000)]
    verify_top: Annotated[int, Bounds(0, 10_000)]
    float_layers: list[str] | None


def sensitivity_cli(params: ParamsFile = DEFAULT_PARAMS) -> None:
    """Rank layers by quantization noise, keep the fewest float: artifacts/sensitivity, metrics/partial.json."""
    sensitivity_section, runtime = read_params(params, sensitivity=SensitivityParams, runtime=RuntimeParams)
    with stage_errors():
        sensitivity(sensitivity_section, runtime)


def sensitivity(params: SensitivityParams, runtime: RuntimeParams) -> None:
    """Write `ranking.csv`, `keep_float.json`, the partially quantized weights and the val metrics.

    Layers are ranked on calibration images and verified on the select split; val is evaluated for the result only.
    """
    from stages._evaluation import evaluate_split
    from stages._models import FLOAT_WEIGHTS, calibration_batches, load_float_model, load_quantized
    from yolov6core.quant.insert import set_float_layers_, state_of
    from yolov6core.quant.sensitivity import rank_layers

    set_threads(runtime.threads)
    network, meta = load_float_model(FLOAT_WEIGHTS, device=runtime.device)
    gm, quantized_meta = load_quantized(PTQ_WEIGHTS, device=runtime.device)
    always_float = state_of(gm).float_layers
    batches = calibration_batches(meta, batch_size=8, images=params.images, device=runtime.device)
    ranking = rank_layers(gm, batches)
    for score in ranking[:5]:
        logger.info("%-32s %.1f dB  (%.1f %% of the arithmetic)", score.name, score.sqnr_db, 100 * score.macs)

    float_select = evaluate_split(network, meta, "select", batch_size=params.batch_size).stats["map50_95"]
    choice = _choose(gm, ranking, meta, params=params, float_score=float_select, always_float=always_float)
    set_float_layers_(gm, always_float | set(choice.float_layers))
    float_val = evaluate_split(network, meta, "val", batch_size=params.batch_size).stats["map50_95"]
    stats = evaluate_split(gm, meta, "val", batch_size=params.batch_size).stats
    _write(gm, quantized_meta, ranking=ranking, choice=choice, float_select=float_select)
    _report(stats, float_val=float_val, ranking=ranking, choice=choice)


def _choose(
    gm: QuantizedModel,
    ranking: list[LayerScore],
    meta: dict[str, Any],
    *,
    params: SensitivityParams,
    float_score: float,
    always_float: frozenset[str],
) -> Choice:
    """Float layers as the parameters name them, or the fewest that hold the budget on the select split."""
    from stages._evaluation import evaluate_split
    from stages._models import matching_layers
    from yolov6core.quant.insert import convolution_names, set_float_layers_
    from yolov6core.quant.sensitivity import Choice, Trial, choose_float_layers

    def verify(layers: tuple[str, ...]) -> float:
        set_float_layers_(gm, always_float | set(layers))
        score = evaluate_split(gm, meta, "select", batch_size=params.batch_size).stats["map50_95"]
        logger.info("%d layer(s) float: select mAP50:95 %.4f  %s", len(layers), score, ", ".join(layers))
        return score

    if params.float_layers is not None:
        layers = tuple(matching_layers(convolution_names(gm), params.float_layers, where="sensitivity.float_layers"))
        trial = Trial(layers, verify(layers))
        held = params.max_drop is None or float_score - trial.score <= params.max_drop
        return Choice(layers, trial.score, held, (trial,))
    return choose_float_layers(
        [score.name for score in ranking],
        verify=verify,
        float_score=float_score,
        max_drop=params.max_drop,
        max_layers=params.max_layers,
        recheck=params.verify_top,
    )


def _write(
    gm: QuantizedModel, meta: dict[str, Any], *, ranking: list[LayerScore], choice: Choice, float_select: float
) -> None:
    import pandas as pd

    from stages._models import save_quantized

    rows = [
        {
            "layer": score.name,
            "sqnr_db": score.sqnr_db,
            **{f"output_{i}_db": value for i, value in enumerate(score.outputs_db)},
            "macs_share": score.macs,
            "float": int(score.name in choice.float_layers),
        }
        for score in ranking
    ]
    with replace_folder(OUT) as folder:
        write_text(folder / "ranking.csv", pd.DataFrame(rows).round(5).to_csv(index=False))
        write_json(folder / "keep_float.json", {**asdict(choice), "float_score": float_select})
        save_quantized(folder / "weights.safetensors", gm, meta, method=meta["quant"]["method"])


def _report(stats: dict[str, float], *, float_val: float, ranking: list[LayerScore], choice: Choice) -> None:
    from stages._models import retention

    kept = retention(stats["map50_95"], float_val)
    share = sum(score.macs for score in ranking if score.name in choice.float_layers)
    write_json(
        METRICS,
        {
            "map50_95": stats["map50_95"],
            "map50": stats["map50"],
            "float_layers": len(choice.float_layers),
        },
    )
    if not choice.within_budget:
        logger.warning("no choice within the budget holds sensitivity.max_drop on select; the best one was taken")
    logger.info(
        "partial: %d layer(s) float (%.1f %% of the arithmetic), val mAP50:95 %.4f, %.1f %% of the float %.4f",
        len(choice.float_layers),
        100 * share,
        stats["map50_95"],
        100 * kept,
        float_val,
    )
