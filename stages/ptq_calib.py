"""`ptq-calib`: quantizers into the float network, ranges by every method from one pass, and the choice of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages._judge import Judge
from stages._params import DEFAULT_PARAMS, ParamsFile, PtqParams, RuntimeParams, read_params
from stages._report import set_threads, stage_errors
from yolov6core.atomic import replace_folder, write_json, write_text
from yolov6core.errors import StageError, logger

if TYPE_CHECKING:
    from torch import nn

    from yolov6core.evaluation.evaluator import EvalResult
    from yolov6core.quant.calibrate import Health, Ranges, Statistics
    from yolov6core.quant.insert import QuantizedModel
    from yolov6core.quant.observers import Method

OUT = Path("artifacts/ptq")
METRICS = Path("metrics/ptq.json")
Evaluate = Callable[[Any], dict[str, float]]
"""Name of what has been done to the network -> its figures on select, see `Judge`."""
REPAIR_IMAGES = 16
"""Calibration images that biases, roundings and the blame for a failure are worked out on."""


def ptq_calib_cli(params: ParamsFile = DEFAULT_PARAMS) -> None:
    """Calibrate the float network to INT8: artifacts/ptq, metrics/ptq.json."""
    ptq, runtime = read_params(params, ptq=PtqParams, runtime=RuntimeParams)
    with stage_errors():
        ptq_calib(ptq, runtime)


def ptq_calib(ptq: PtqParams, runtime: RuntimeParams) -> None:
    """Write the calibrated weights, `ranges.csv`, `histograms.npz`, `methods.json` and the val metrics.

    Candidates are compared on the select split, by `merit`; the val split is evaluated for the chosen one only.

    Raises:
        StageError: missing inputs, a calibration that meets NaN, or too little mAP left with `on_failure: fail`.
    """
    from stages._evaluation import evaluate_split
    from stages._models import FLOAT_WEIGHTS, calibration_batches, load_float_model, matching_layers
    from yolov6core.engines.cpu import resolved
    from yolov6core.quant.calibrate import collect, health, ranges
    from yolov6core.quant.insert import convolution_names, insert_quantizers, set_float_layers_, state_of

    set_threads(runtime.threads)
    network, meta = load_float_model(FLOAT_WEIGHTS, device=runtime.device)
    equalized = _equalized(network, meta, ptq, device=runtime.device)
    cpu = resolved(ptq.cpu)
    logger.info("INT8 for CPUs with %s sums (ptq.cpu %s)", cpu, ptq.cpu)
    gm = insert_quantizers(equalized, dialect_name=ptq.dialect, quantize_predictions=ptq.predictions == "int8", cpu=cpu)
    extra = matching_layers(convolution_names(gm), ptq.float_layers, where="ptq.float_layers")
    set_float_layers_(gm, state_of(gm).float_layers | set(extra))
    try:
        statistics = collect(gm, calibration_batches(meta, batch_size=ptq.batch_size, device=runtime.device))
    except ValueError as error:
        raise StageError(f"calibration: {error}") from None
    report = health(gm, statistics, wild_ratio=ptq.wild_ratio)
    _log_health(report)

    tables = {method: ranges(statistics, method) for method in _candidates(ptq)}
    float_select = evaluate_split(network, meta, "select", batch_size=ptq.batch_size)
    judge = Judge(float_select)

    def evaluate(name: Any) -> dict[str, float]:
        scores = judge(evaluate_split(gm, meta, "select", batch_size=ptq.batch_size))
        shown = (scores[key] for key in ("map50_95", "agreement"))
        logger.info("%-18s select mAP50:95 %.4f, agreement with float %.4f", name, *shown)
        return scores

    scores = {}
    for method, table in tables.items():
        _use(gm, table)
        scores[method] = evaluate(method)
    chosen = max(scores, key=lambda method: scores[method]["merit"])
    _use(gm, tables[chosen])
    repaired = _repair(gm, meta, ptq, evaluate=evaluate, device=runtime.device)
    results = {
        "float": evaluate_split(network, meta, "val", batch_size=ptq.batch_size),
        "ptq": evaluate_split(gm, meta, "val", batch_size=ptq.batch_size),
    }
    methods = _methods_document(scores | repaired, chosen, float_select, statistics, report)
    _write(gm, meta, tables=tables, chosen=chosen, statistics=statistics, methods=methods)
    _judge(ptq, results, chosen, blame=lambda: _noisiest(gm, meta, device=runtime.device))


def _equalized(network: nn.Module, meta: dict[str, Any], ptq: PtqParams, *, device: str) -> nn.Module:
    """The network with even channels as `ptq.equalize` wants them; it computes the same."""
    import torch

    from stages._models import calibration_batches
    from yolov6core.quant.equalize import depthwise_names, equalize, input_peaks

    chains, depthwise = ptq.equalize in ("chains", "all"), ptq.equalize in ("depthwise", "all")
    if not chains and not (depthwise and depthwise_names(network)):
        return network
    peaks = input_peaks(network, calibration_batches(meta, batch_size=ptq.batch_size, device=device))
    equalized = equalize(network, peaks, chains=chains, depthwise=depthwise)
    return equalized.to(memory_format=torch.channels_last)


def _repair(
    gm: QuantizedModel, meta: dict[str, Any], ptq: PtqParams, *, evaluate: Evaluate, device: str
) -> dict[str, dict[str, float]]:
    """Round weights and correct biases as the section wants, and the select figures after each."""
    from stages._models import calibration_batches
    from yolov6core.quant.adaround import round_weights_
    from yolov6core.quant.bias_correction import correct_biases_

    steps = {}
    if ptq.adaround:
        steps["adaround"] = lambda images: round_weights_(gm, images, steps=ptq.adaround)
    if ptq.bias_correction == "fast":
        steps["bias_correction"] = lambda images: correct_biases_(gm, images)
    scores = {}
    for name, step in steps.items():
        step(next(calibration_batches(meta, batch_size=REPAIR_IMAGES, images=REPAIR_IMAGES, device=device)))
        scores[name] = evaluate(f"+ {name}")
    return scores


def _noisiest(gm: QuantizedModel, meta: dict[str, Any], *, device: str, count: int = 8) -> str:
    """A table of the tensors that rounding serves worst."""
    from stages._models import calibration_batches
    from yolov6core.quant.tensor_noise import tensor_noise

    batches = calibration_batches(meta, batch_size=REPAIR_IMAGES, images=REPAIR_IMAGES, device=device)
    rows = [f"{'tensor':40s} {'dB':>6s} {'worst channel':>13s} {'step':>10s}"]
    for row in tensor_noise(gm, batches)[:count]:
        rows.append(f"{row.tensor:40s} {row.sqnr_db:6.1f} {row.worst_channel_db:13.1f} {row.step:10.3g}")
    return "\n".join(rows)


def _candidates(ptq: PtqParams) -> list[Method]:
    """Methods to compare, in the order in which a tie is decided."""
    from yolov6core.quant.observers import Method

    percentiles = [Method("percentile", value) for value in ptq.percentiles]
    if ptq.method == "auto":
        return [Method("mse"), Method("entropy"), *percentiles, Method("max")]
    return percentiles if ptq.method == "percentile" else [Method(ptq.method)]


def _use(gm: QuantizedModel, table: Ranges) -> None:
    from yolov6core.quant.insert import set_ranges_

    set_ranges_(gm, table)


def _log_health(report: Health) -> None:
    for tensor in (*report.never_seen, *report.all_zero):
        logger.warning("%s held nothing but zero during calibration; its range is 0", tensor)
    for tensor, ratio in report.wild_channels.items():
        logger.warning("%s: its largest channel is %.0f times the median one, one scale serves it badly", tensor, ratio)
    dead = sum(map(len, report.dead_channels.values()))
    if dead:
        logger.info("%d channel(s) in %d tensor(s) stayed zero during calibration", dead, len(report.dead_channels))


def _methods_document(
    scores: dict[Any, dict[str, float]],
    chosen: Method,
    float_select: EvalResult,
    statistics: Statistics,
    report: Health,
) -> dict[str, Any]:
    """Content of `methods.json`: what was compared, what was chosen, and what looked wrong."""

    def figures(row: dict[str, float]) -> dict[str, float]:
        return {name: row[name] for name in ("map50_95", "map50", "agreement") if name in row}

    return {
        "chosen": str(chosen),
        "images": statistics.images,
        "select": {"float": figures(float_select.stats)} | {str(m): figures(row) for m, row in scores.items()},
        "health": asdict(report),
    }


def _write(
    gm: QuantizedModel,
    meta: dict[str, Any],
    *,
    tables: dict[Method, Ranges],
    chosen: Method,
    statistics: Statistics,
    methods: dict[str, Any],
) -> None:
    import numpy as np
    import pandas as pd

    from stages._models import save_quantized
    from yolov6core.quant.calibrate import range_table

    rows = range_table(statistics, {str(method): table for method, table in tables.items()})
    arrays = {}
    for group, histogram in statistics.histograms.items():
        arrays[f"{group}.counts"] = histogram.counts
        arrays[f"{group}.width_low_high"] = np.array([histogram.width, histogram.low, histogram.high])
    with replace_folder(OUT) as folder:
        save_quantized(folder / "weights.safetensors", gm, meta, method=str(chosen))
        write_text(folder / "ranges.csv", pd.DataFrame([asdict(row) for row in rows]).round(8).to_csv(index=False))
        np.savez_compressed(folder / "histograms.npz", **arrays)
        write_json(folder / "methods.json", methods)


def _judge(ptq: PtqParams, results: dict[str, EvalResult], chosen: Method, *, blame: Callable[[], str]) -> None:
    """Write the metrics, and complain if too little of the float mAP is left."""
    from stages._models import retention

    score, float_score = (results[name].stats["map50_95"] for name in ("ptq", "float"))
    kept = retention(score, float_score)
    write_json(METRICS, {"map50_95": score, "map50": results["ptq"].stats["map50"]})
    logger.info("ptq by %s: val mAP50:95 %.4f, %.1f %% of the float %.4f", chosen, score, 100 * kept, float_score)
    if kept < ptq.min_retention:
        logger.warning("tensors with the lowest signal-to-noise ratio, mean over their channels:\n%s", blame())
        message = (
            f"PTQ keeps {100 * kept:.1f} % of the float mAP50:95 on val, less than ptq.min_retention "
            f"{100 * ptq.min_retention:.1f} %; see wild channels in {OUT / 'methods.json'}, ptq.equalize, more "
            "calibration images, or the sensitivity and qat-distill stages"
        )
        if ptq.on_failure == "fail":
            raise StageError(message)
        logger.warning(message)
