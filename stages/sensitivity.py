"""`sensitivity`: which layers suffer from INT8, and which stay float so that the stated budget is met."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from stages._judge import score_of
from stages._params import DEFAULT_PARAMS, Bounds, ParamsFile, RuntimeParams, read_params
from stages._ranking import Columns, log_agreement, measure_exactly, readout
from stages._report import fingerprint, set_threads, stage_errors
from yolov6core.atomic import replace_folder, write_json, write_text
from yolov6core.errors import logger

if TYPE_CHECKING:
    from torch import nn

    from yolov6core.data.dataset import DetectionDataset
    from yolov6core.evaluation.evaluator import EvalResult
    from yolov6core.quant.insert import QuantizedModel
    from yolov6core.quant.selection import Budget, Choice, Layer, Score

PTQ_WEIGHTS = Path("artifacts/ptq/weights.safetensors")
OUT = Path("artifacts/sensitivity")
METRICS = Path("metrics/partial.json")
STATE_ROOT = Path(".ckpt/sensitivity")
"""Exact measurements of an interrupted run."""


@dataclass(frozen=True)
class SensitivityParams:
    """Section `sensitivity`: how layers are ranked, and what the float ones may cost or must gain."""

    metric: Literal["fast", "exact"]
    images: Annotated[int, Bounds(1, 100_000)]
    batch_size: Annotated[int, Bounds(1, 4096)]
    max_drop: Annotated[float, Bounds(0, 1)] | None
    max_layers: Annotated[int, Bounds(0, 10_000)] | None
    max_slowdown: Annotated[float, Bounds(0, 100)] | None
    cost: Literal["auto", "openvino", "macs"]
    float_layers: list[str] | None

    def __post_init__(self) -> None:
        if self.float_layers is None and self.max_drop == self.max_layers == self.max_slowdown is None:
            raise ValueError("nothing limits the float layers; give max_drop, max_layers or max_slowdown")


@dataclass(frozen=True)
class Costs:
    """What leaving a layer float costs, as a share of the INT8 network."""

    unit: str
    shares: dict[str, float]


def sensitivity_cli(params: ParamsFile = DEFAULT_PARAMS) -> None:
    """Rank layers by quantization error, keep few float: artifacts/sensitivity, metrics/partial.json."""
    sensitivity_section, runtime = read_params(params, sensitivity=SensitivityParams, runtime=RuntimeParams)
    with stage_errors():
        sensitivity(sensitivity_section, runtime)


def sensitivity(params: SensitivityParams, runtime: RuntimeParams) -> None:
    """Write `ranking.csv`, `ranking.png`, `keep_float.json`, the partially quantized weights and the val metrics.

    Layers are ranked on the select split, whose images no range was fitted to, and which of them stay float is decided
    there as well (see `yolov6core.quant.selection`); val is evaluated for the result only.
    """
    from stages._evaluation import evaluate_split, image_batches
    from stages._models import FLOAT_WEIGHTS, load_float_model, load_quantized
    from yolov6core.quant.insert import set_float_layers_, state_of
    from yolov6core.quant.sensitivity import fast_harm

    set_threads(runtime.threads)
    network, meta = load_float_model(FLOAT_WEIGHTS, device=runtime.device)
    gm, quantized_meta = load_quantized(PTQ_WEIGHTS, device=runtime.device)
    always_float = state_of(gm).float_layers
    batches = image_batches(_select(params.images), meta, device=runtime.device)
    columns: Columns = {"fast": fast_harm(gm, batches, readout=readout(meta))}
    float_select = evaluate_split(network, meta, "select", batch_size=params.batch_size)
    if params.metric == "exact":
        columns |= _exact(gm, meta, float_select, batch_size=params.batch_size)
        log_agreement(columns)
    layers, costs = _layers(gm, meta, columns, params=params, runtime=runtime)
    choice = _choose(gm, layers, meta, params=params, float_select=float_select, always_float=always_float)
    set_float_layers_(gm, always_float | set(choice.float_layers))
    float_val = evaluate_split(network, meta, "val", batch_size=params.batch_size).stats["map50_95"]
    stats = evaluate_split(gm, meta, "val", batch_size=params.batch_size).stats
    _write(gm, quantized_meta, layers=layers, columns=columns, costs=costs, choice=choice, float_select=float_select)
    _report(stats, float_val=float_val, costs=costs, choice=choice)


def _exact(gm: QuantizedModel, meta: dict[str, Any], float_select: EvalResult, *, batch_size: int) -> Columns:
    """Columns of `measure_exactly` on the select split."""
    from stages._evaluation import evaluate_split

    def evaluate(network: nn.Module) -> EvalResult:
        return evaluate_split(network, meta, "select", batch_size=batch_size)

    state = _state_path(batch_size)
    columns = measure_exactly(
        gm, evaluate=evaluate, float_result=float_select, truth=_select().ground_truth(), state=state
    )
    state.unlink(missing_ok=True)
    return columns


def _select(images: int | None = None) -> DetectionDataset:
    from stages._evaluation import DATASET
    from yolov6core.data.dataset import DetectionDataset

    return DetectionDataset(DATASET, "select", limit=images)


def _state_path(batch_size: int) -> Path:
    """Named after the code, the weights and the dataset's lists and labels, so that no run continues another."""
    from stages._evaluation import DATASET

    inputs = (PTQ_WEIGHTS, DATASET / "select.txt", DATASET / "annotations" / "instances_select.json")
    return STATE_ROOT / f"{fingerprint(batch_size, files=inputs)}.json"


def _layers(
    gm: QuantizedModel,
    meta: dict[str, Any],
    columns: Columns,
    *,
    params: SensitivityParams,
    runtime: RuntimeParams,
) -> tuple[list[Layer], Costs]:
    """Layers with harm and cost, the worst first."""
    from yolov6core.quant.selection import Layer

    costs = measured_costs(gm, meta, params=params, runtime=runtime)
    harm = columns[params.metric]
    layers = [Layer(name, harm[name], costs.shares[name]) for name in sorted(harm, key=lambda name: -harm[name])]
    total = sum(layer.harm for layer in layers) or 1.0
    for layer in layers[:5]:
        logger.info(
            "%-32s %4.1f %% of the harm, %.1f %% of the %s",
            layer.name,
            100 * layer.harm / total,
            100 * layer.cost,
            costs.unit,
        )
    return layers, costs


def measured_costs(
    gm: QuantizedModel, meta: dict[str, Any], *, params: SensitivityParams, runtime: RuntimeParams
) -> Costs:
    """Costs by OpenVINO's counters where latency is part of the problem and the CPU runs the engines, else arithmetic.

    Measured times differ a little from run to run, which a ranking that does not need them is spared.
    """
    import torch

    from yolov6core.engines.runtime import RuntimeMissing
    from yolov6core.export.layer_times import openvino_layer_times
    from yolov6core.quant.sensitivity import layer_macs

    size, needed = tuple(meta["image_size"]), params.max_drop is not None or params.max_slowdown is not None
    try:
        if params.cost == "openvino" or (params.cost == "auto" and needed and runtime.device == "cpu"):
            times = openvino_layer_times(gm, image_size=size, threads=runtime.threads)
            return Costs("INT8 latency", {name: extra / times.int8 for name, extra in times.extra.items()})
    except RuntimeMissing as error:
        logger.warning("sensitivity.cost %s: %s; multiply-adds are counted instead", params.cost, error)
    device = next(gm.parameters()).device
    return Costs("arithmetic", layer_macs(gm, torch.zeros(1, 3, *size, device=device)))


def _choose(
    gm: QuantizedModel,
    layers: list[Layer],
    meta: dict[str, Any],
    *,
    params: SensitivityParams,
    float_select: EvalResult,
    always_float: frozenset[str],
) -> Choice:
    """Float layers as the parameters name them, or as the budget has them."""
    from stages._evaluation import evaluate_split
    from stages._models import matching_layers
    from yolov6core.quant.insert import convolution_names, set_float_layers_
    from yolov6core.quant.selection import Budget, choose_float_layers, given_float_layers

    budget = Budget(params.max_drop, params.max_layers, params.max_slowdown)
    truth = _select().ground_truth()
    scored: dict[str, Any] = {"float_score": float_select.stats["map50_95"], "budget": budget}

    def verify(names: tuple[str, ...]) -> Score:
        set_float_layers_(gm, always_float | set(names))
        score = score_of(evaluate_split(gm, meta, "select", batch_size=params.batch_size), truth)
        logger.info("%d layer(s) float: select mAP50:95 %.4f  %s", len(names), score.value, ", ".join(names))
        return score

    if params.float_layers is not None:
        named = matching_layers(convolution_names(gm), params.float_layers, where="sensitivity.float_layers")
        return given_float_layers([layer for layer in layers if layer.name in named], verify=verify, **scored)
    choice = choose_float_layers(layers, verify=verify, **scored)
    _explain(choice, budget)
    return choice


def _explain(choice: Choice, budget: Budget) -> None:
    """Say how sure the choice is."""
    last = max(choice.trials, key=lambda trial: len(trial.float_layers))
    if last.float_layers:
        logger.info(
            "%d layer(s) float gain %+.4f on select, standard error %.4f", len(last.float_layers), last.gain, last.noise
        )
    if not choice.within_budget:
        logger.warning("no choice within the budget holds sensitivity.max_drop %g on select", budget.max_drop)
    if not choice.float_layers and budget.max_drop is None:
        logger.info("no float layer: what they gain is not beyond noise, and each costs latency")


def _write(
    gm: QuantizedModel,
    meta: dict[str, Any],
    *,
    layers: list[Layer],
    columns: Columns,
    costs: Costs,
    choice: Choice,
    float_select: EvalResult,
) -> None:
    import pandas as pd

    from stages._models import save_quantized
    from yolov6core.evaluation.ranking_plot import ranking_picture

    total = sum(layer.harm for layer in layers) or 1.0
    harm = {layer.name: layer.harm / total for layer in layers}
    rows = [
        {"layer": name, "harm": share}
        | {title: values[name] for title, values in columns.items()}
        | {"cost": costs.shares[name], "float": int(name in choice.float_layers)}
        for name, share in harm.items()
    ]
    document = {**asdict(choice), "cost_unit": costs.unit, "float_score": float_select.stats["map50_95"]}
    with replace_folder(OUT) as folder:
        write_text(folder / "ranking.csv", pd.DataFrame(rows).round(6).to_csv(index=False))
        write_json(folder / "keep_float.json", document)
        label = "harm of INT8, % of all layers' (logarithmic)"
        ranking_picture(harm, folder / "ranking.png", marked=choice.float_layers, label=label)
        save_quantized(folder / "weights.safetensors", gm, meta, method=meta["quant"]["method"])


def _report(stats: dict[str, float], *, float_val: float, costs: Costs, choice: Choice) -> None:
    from stages._models import retention

    kept = retention(stats["map50_95"], float_val)
    count = len(choice.float_layers)
    write_json(METRICS, {"map50_95": stats["map50_95"], "map50": stats["map50"], "float_layers": count})
    logger.info(
        "partial: %d layer(s) float (%.1f %% of the %s), val mAP50:95 %.4f, %.1f %% of the float %.4f",
        count,
        100 * choice.cost,
        costs.unit,
        stats["map50_95"],
        100 * kept,
        float_val,
    )
