"""`ptq-calib`: quantizers into the float network, ranges by every method from one pass, and the choice of one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from stages._params import DEFAULT_PARAMS, Bounds, ParamsFile, RuntimeParams, read_params
from stages._report import StageError, logger, replace_folder, set_threads, stage_errors, write_json, write_text

if TYPE_CHECKING:
    from yolov6core.evaluation.evaluator import EvalResult
    from yolov6core.quant.calibrate import Health, Ranges, Statistics
    from yolov6core.quant.insert import QuantizedModel
    from yolov6core.quant.observers import Method

OUT = Path("artifacts/ptq")
METRICS = Path("metrics/ptq.json")


@dataclass(frozen=True)
class PtqParams:
    """Section `ptq`: how activation ranges are chosen, and what accuracy the result must keep."""

    method: Literal["auto", "max", "percentile", "mse", "entropy"]
    percentiles: list[Annotated[float, Bounds(50, 100)]]
    batch_size: Annotated[int, Bounds(1, 4096)]
    float_layers: list[str]
    min_retention: Annotated[float, Bounds(0, 1)]
    on_failure: Literal["warn", "fail"]
    wild_ratio: Annotated[float, Bounds(1, None)]

    def __post_init__(self) -> None:
        if self.method == "percentile" and not self.percentiles:
            raise ValueError("percentiles is empty, but method is percentile; give at least one")


def ptq_calib_cli(params: ParamsFile = DEFAULT_PARAMS) -> None:
    """Calibrate the float network to INT8: artifacts/ptq, metrics/ptq.json."""
    ptq, runtime = read_params(params, ptq=PtqParams, runtime=RuntimeParams)
    with stage_errors():
        ptq_calib(ptq, runtime)


def ptq_calib(ptq: PtqParams, runtime: RuntimeParams) -> None:
    """Write the calibrated weights, `ranges.csv`, `histograms.npz`, `methods.json` and the val metrics.

    Candidates are compared on the select split; the val split is evaluated for the chosen one only.

    Raises:
        StageError: missing inputs, a calibration that meets NaN, or too little mAP left with `on_failure: fail`.
    """
    from stages._evaluation import evaluate_split
    from stages._models import FLOAT_WEIGHTS, calibration_batches, load_float_model, matching_layers
    from yolov6core.quant.calibrate import collect, health, ranges
    from yolov6core.quant.insert import convolution_names, insert_quantizers, set_float_layers_, state_of

    set_threads(runtime.threads)
    network, meta = load_float_model(FLOAT_WEIGHTS, device=runtime.device)
    gm = insert_quantizers(network)
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
    scores = _compare(gm, tables, meta, batch_size=ptq.batch_size)
    chosen = max(scores, key=lambda method: scores[method].stats["map50_95"])
    _use(gm, tables[chosen])
    results = {
        "float": evaluate_split(network, meta, "val", batch_size=ptq.batch_size),
        "ptq": evaluate_split(gm, meta, "val", batch_size=ptq.batch_size),
    }
    methods = _methods_document(scores, chosen, float_select, statistics, report)
    _write(gm, meta, tables=tables, chosen=chosen, statistics=statistics, methods=methods)
    _judge(ptq, results, chosen)


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


def _compare(
    gm: QuantizedModel, tables: dict[Method, Ranges], meta: dict[str, Any], *, batch_size: int
) -> dict[Method, EvalResult]:
    """Select-split figures of every method."""
    from stages._evaluation import evaluate_split

    scores = {}
    for method, table in tables.items():
        _use(gm, table)
        scores[method] = evaluate_split(gm, meta, "select", batch_size=batch_size)
        logger.info("%-18s select mAP50:95 %.4f", method, scores[method].stats["map50_95"])
    return scores


def _log_health(report: Health) -> None:
    for tensor in (*report.never_seen, *report.all_zero):
        logger.warning("%s held nothing but zero during calibration; its range is 0", tensor)
    for tensor, ratio in report.wild_channels.items():
        logger.warning("%s: its largest channel is %.0f times the median one, one scale serves it badly", tensor, ratio)
    dead = sum(map(len, report.dead_channels.values()))
    if dead:
        logger.info("%d channel(s) in %d tensor(s) stayed zero during calibration", dead, len(report.dead_channels))


def _methods_document(
    scores: dict[Method, EvalResult],
    chosen: Method,
    float_select: EvalResult,
    statistics: Statistics,
    report: Health,
) -> dict[str, Any]:
    """Content of `methods.json`: what was compared, what was chosen, and what looked wrong."""

    def figures(result: EvalResult) -> dict[str, float]:
        return {"map50_95": result.stats["map50_95"], "map50": result.stats["map50"]}

    return {
        "chosen": str(chosen),
        "images": statistics.images,
        "select": {"float": figures(float_select)} | {str(m): figures(result) for m, result in scores.items()},
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


def _judge(ptq: PtqParams, results: dict[str, EvalResult], chosen: Method) -> None:
    """Write the metrics, and complain if too little of the float mAP is left."""
    from stages._models import retention

    score, float_score = (results[name].stats["map50_95"] for name in ("ptq", "float"))
    kept = retention(score, float_score)
    write_json(METRICS, {"map50_95": score, "map50": results["ptq"].stats["map50"]})
    logger.info("ptq by %s: val mAP50:95 %.4f, %.1f %% of the float %.4f", chosen, score, 100 * kept, float_score)
    if kept < ptq.min_retention:
        message = (
            f"PTQ keeps {100 * kept:.1f} % of the float mAP50:95 on val, less than ptq.min_retention "
            f"{100 * ptq.min_retention:.1f} %; see wild channels in {OUT / 'methods.json'}, more calibration images, "
            "or the sensitivity and qat-distill stages"
        )
        if ptq.on_failure == "fail":
            raise StageError(message)
        logger.warning(message)
