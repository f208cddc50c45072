"""`sensitivity`: which layers suffer from INT8, and which stay float so that the stated budget is met."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from stages.params import EvalParams, RuntimeParams, SensitivityParams
from stages.shared import paths
from stages.shared.limits import limits_of
from stages.shared.shell import required
from stages.shared.start_line import log_start
from yolov6core.base.atomic import replace_folder, write_json
from yolov6core.base.code_version import fingerprint
from yolov6core.base.errors import logger
from yolov6core.base.progress import tracked
from yolov6core.base.tables import write_rows
from yolov6core.base.threads import compute_device, describe_device, set_threads
from yolov6core.data.dataset import DetectionDataset
from yolov6core.data.views import image_batches
from yolov6core.evaluation.class_table import log_classes
from yolov6core.evaluation.evaluator import EvalResult
from yolov6core.evaluation.ranking_plot import ranking_picture
from yolov6core.int8.block_ranking import OneFloat, block_rows, measure_one_float
from yolov6core.int8.float_comparison import retention, score_of, told_share
from yolov6core.int8.layer_costs import Costs, layer_costs
from yolov6core.int8.layer_ranking import Columns, log_correlations, measure_exactly, readout
from yolov6core.int8.quantized_networks import load_quantized, matching_layers, save_quantized
from yolov6core.int8.ranking_file import ranked_layers, read_ranking
from yolov6core.models.card import NetworkCard
from yolov6core.quant.insert import QuantizedModel, convolution_names, set_float_layers_, state_of
from yolov6core.quant.selection import Budget, Choice, Layer, Score, choose_float_layers, given_float_layers
from yolov6core.quant.sensitivity import fast_sensitivity, quantized_names
from yolov6core.tasks.evaluation import SplitEvaluator
from yolov6core.tasks.networks import load_float

METRICS = paths.METRICS / "partial.json"
STATE_ROOT = paths.RESUME / "sensitivity"
STATES = ("exact", "one_float")
"""Measurements of an interrupted run: each layer alone in INT8, each part alone in float."""
WORST = 5
"""Layers that the log names."""


@dataclass(frozen=True)
class Measured:
    """The calibrated model beside the float network's result.

    Attributes:
        card: of the quantized network.
        always_float: convolutions that are not for the choice.
        float_select: result of the float network on select.
    """

    model: QuantizedModel
    card: NetworkCard
    always_float: frozenset[str]
    on_select: SplitEvaluator
    float_select: EvalResult


def sensitivity(params: SensitivityParams, evaluation: EvalParams, runtime: RuntimeParams) -> None:
    """Write rankings of layers and blocks, `keep_float.json`, the partially quantized weights and the val metrics.

    Layers are ranked on the select split, whose images no range was fitted to, and the layers that stay float are
    chosen there as well (see `yolov6core.quant.selection`); val is evaluated for the result only.

    Raises:
        UserError: missing inputs, or patterns that fit no layer.
    """
    set_threads(runtime.threads)
    device = compute_device(runtime.device)
    log_start("sensitivity", "torch", device=describe_device(device))
    float_weights, ptq_weights = (
        required(paths.WEIGHTS[kind], made_by=paths.MADE_BY[kind]) for kind in ("float", "ptq")
    )
    network, _ = load_float(float_weights, device=device)
    model, card = load_quantized(ptq_weights, device=device)
    order = _given_order(params, model, card)
    on_select, on_val = (
        SplitEvaluator(
            DetectionDataset(paths.DATASET, split), card, batch_size=params.batch_size, limits=limits_of(evaluation)
        )
        for split in ("select", "val")
    )
    some = DetectionDataset(paths.DATASET, "select", limit=params.images)
    batches = image_batches(some, image_size=card.image_size, shrink=card.shrink, device=device)
    images = tracked(batches, "sensitivity of all layers", total=len(some), count=len)
    columns: Columns = {"fast": fast_sensitivity(model, images, readout=readout(card))}
    measured = Measured(model, card, state_of(model).float_layers, on_select, on_select(network))
    if params.metric == "exact":
        columns |= _exact(measured)
        log_correlations(columns)
    latency_matters = params.max_drop is not None or params.max_slowdown is not None
    measured_by = None if params.cost in ("auto", "macs") else params.cost
    if params.cost == "auto" and latency_matters:
        measured_by = "openvino" if device == "cpu" else "tensorrt"
    costs = layer_costs(model, card.image_size, runtime=measured_by, threads=runtime.threads)
    layers = _layers(columns[params.metric], costs)
    one_float = _one_float(measured, layers, params=params)
    choice = _choose(measured, layers, order, params=params)
    set_float_layers_(model, measured.always_float | set(choice.float_layers))
    float_val, partial_val = on_val(network), on_val(model)
    _write(measured, layers=layers, columns=columns, costs=costs, choice=choice, one_float=one_float)
    for what in STATES:
        _state_path(on_select, what).unlink(missing_ok=True)
    log_classes({"float": float_val, "partial": partial_val})
    _write_metrics(partial_val.stats, float_val=float_val.stats["map50_95"], costs=costs, choice=choice)


def _exact(measured: Measured) -> Columns:
    """Columns of `measure_exactly` on the select split."""
    state = _state_path(measured.on_select, "exact")
    return measure_exactly(
        measured.model,
        evaluate=measured.on_select,
        float_result=measured.float_select,
        truth=measured.on_select.truth,
        state=state,
    )


def _state_path(on_select: SplitEvaluator, what: str) -> Path:
    """File of one of STATES, named after the code, the weights and the dataset's lists and labels, so that no run
    continues another."""
    names = ("select.txt", "digests.txt", "annotations/instances_select.json")
    labels = [paths.DATASET / name for name in names]
    how = fingerprint(what, on_select.batch_size, vars(on_select.limits), files=(paths.WEIGHTS["ptq"], *labels))
    return STATE_ROOT / f"{how}.json"


def _layers(values: dict[str, float], costs: Costs) -> list[Layer]:
    """Layers with sensitivity and cost, the worst first."""
    order = sorted(values, key=lambda name: -values[name])
    layers = [Layer(name, values[name], costs.shares[name]) for name in order]
    total = sum(layer.sensitivity for layer in layers) or 1.0
    for layer in layers[:WORST]:
        share, cost = 100 * layer.sensitivity / total, 100 * layer.cost
        logger.info("%-32s %4.1f %% of the sensitivity, %.1f %% of the %s", layer.name, share, cost, costs.unit)
    return layers


def _given_order(params: SensitivityParams, model: QuantizedModel, card: NetworkCard) -> list[str] | None:
    """Layers in the order of `sensitivity.from_file`; None: they are ranked here."""
    if params.from_file is None:
        return None
    path = Path(params.from_file)
    return ranked_layers(read_ranking(path), quantized_names(model), card.spec, path=path)


def _verify(measured: Measured, names: tuple[str, ...]) -> Score:
    """Score on select with these layers float."""
    set_float_layers_(measured.model, measured.always_float | set(names))
    return score_of(measured.on_select(measured.model), measured.on_select.truth)


def _one_float(measured: Measured, layers: list[Layer], *, params: SensitivityParams) -> list[OneFloat]:
    if params.one_float == "none":
        return []
    measure = partial(_verify, measured)
    state, single = _state_path(measured.on_select, "one_float"), params.one_float == "layers"
    named = {layer.name for layer in layers}
    names = [name for name in convolution_names(measured.model) if name in named]
    return measure_one_float(names, verify=measure, single_layers=single, state=state)


def _choose(measured: Measured, layers: list[Layer], order: list[str] | None, *, params: SensitivityParams) -> Choice:
    """Float layers as the parameters name them, or as the budget has them, by the given order if there is one."""
    model = measured.model
    budget = Budget(params.max_drop, params.max_layers, params.max_slowdown)
    float_score = measured.float_select.stats["map50_95"]

    def verify(names: tuple[str, ...]) -> Score:
        score = _verify(measured, names)
        logger.info("%d layer(s) float: select mAP50:95 %.4f  %s", len(names), score.value, ", ".join(names))
        return score

    if params.float_layers is not None:
        named = matching_layers(model, params.float_layers, where="sensitivity.float_layers")
        layers = [layer for layer in layers if layer.name in named]
        return given_float_layers(layers, verify=verify, float_score=float_score, budget=budget)
    if order is not None:
        by_name = {layer.name: layer for layer in layers}
        layers = [by_name[name] for name in order]
    choice = choose_float_layers(
        layers, verify=verify, float_score=float_score, budget=budget, ranked=order is not None
    )
    _log_certainty(choice, budget)
    return choice


def _log_certainty(choice: Choice, budget: Budget) -> None:
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
    measured: Measured,
    *,
    layers: list[Layer],
    columns: Columns,
    costs: Costs,
    choice: Choice,
    one_float: list[OneFloat],
) -> None:
    card = measured.card
    assert card.quantization is not None, "it was read as a quantized network"
    total = sum(layer.sensitivity for layer in layers) or 1.0
    shares = {layer.name: layer.sensitivity / total for layer in layers}
    rows = [
        {"layer": name, "sensitivity": share}
        | {title: values[name] for title, values in columns.items()}
        | {"cost": costs.shares[name], "float": int(name in choice.float_layers)}
        for name, share in shares.items()
    ]
    document = {**asdict(choice), "cost_unit": costs.unit, "float_score": measured.float_select.stats["map50_95"]}
    with replace_folder(paths.SENSITIVITY) as folder:
        write_rows(folder / "ranking.csv", rows)
        write_rows(folder / "blocks.csv", block_rows(shares, costs.shares, choice.float_layers))
        if one_float:
            write_rows(folder / "one_float.csv", [asdict(row) | {"layers": len(row.layers)} for row in one_float])
        write_json(folder / "keep_float.json", document)
        label = "sensitivity to INT8, % of all layers' (logarithmic)"
        ranking_picture(shares, folder / "ranking.png", marked=choice.float_layers, label=label)
        weights = folder / paths.WEIGHTS["partial"].name
        save_quantized(weights, measured.model, card, method=card.quantization.method)


def _write_metrics(stats: dict[str, float], *, float_val: float, costs: Costs, choice: Choice) -> None:
    score, count = stats["map50_95"], len(choice.float_layers)
    write_json(METRICS, {"map50_95": score, "map50": stats["map50"], "float_layers": count})
    logger.info(
        "partial: %d layer(s) float (%.1f %% of the %s), val mAP50:95 %.4f, %s of the float %.4f",
        count,
        100 * choice.cost,
        costs.unit,
        score,
        told_share(retention(score, float_val)),
        float_val,
    )
