"""`ptq-calib`: quantizers into the float network, ranges by every method from one pass, and the choice of one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from stages.params import EvalParams, PtqParams, RuntimeParams
from stages.shared import paths
from stages.shared.limits import limits_of
from stages.shared.shell import required
from stages.shared.start_line import log_start
from yolov6core.base.atomic import replace_folder, write_json
from yolov6core.base.auto_record import read_meaning
from yolov6core.base.errors import UserError, logger
from yolov6core.base.progress import tracked
from yolov6core.base.saturation import CpuSums
from yolov6core.base.tables import write_rows
from yolov6core.base.threads import compute_device, describe_device, set_threads
from yolov6core.data.dataset import DetectionDataset
from yolov6core.data.views import image_batches
from yolov6core.evaluation.class_table import log_classes
from yolov6core.evaluation.evaluator import EvalResult
from yolov6core.int8.float_comparison import FloatComparison, retention, told_share
from yolov6core.int8.quantized_networks import matching_layers, save_quantized
from yolov6core.models.card import NetworkCard
from yolov6core.quant.adaround import round_weights_
from yolov6core.quant.bias_correction import correct_biases_
from yolov6core.quant.calibrate import Health, Ranges, Statistics, collect, health, range_table, ranges
from yolov6core.quant.equalize import depthwise_names, equalize, input_peaks
from yolov6core.quant.insert import QuantizedModel, insert_quantizers, set_float_layers_, set_ranges_, state_of
from yolov6core.quant.observers import Method
from yolov6core.quant.tensor_noise import noise_table, tensor_noise
from yolov6core.tasks.evaluation import SplitEvaluator
from yolov6core.tasks.networks import load_float

METRICS = paths.METRICS / "ptq.json"
REPAIR_IMAGES = 16
"""Calibration images that biases and roundings are worked out on, and the noise of tensors is measured on."""
NOISY_TENSORS = 8
"""Tensors named where too little mAP is left."""


@dataclass(frozen=True)
class Calibration:
    """Where the stage's images and figures come from."""

    ptq: PtqParams
    card: NetworkCard
    device: str
    on_select: SplitEvaluator
    on_val: SplitEvaluator

    def batches(self, *, batch_size: int | None = None, images: int | None = None) -> Iterator[Tensor]:
        """Batches of the calibration list, in its order; of the first `images` only, if given."""
        dataset = DetectionDataset(paths.DATASET, "calib", limit=images)
        size = batch_size or self.ptq.batch_size
        batches = image_batches(
            dataset, image_size=self.card.image_size, shrink=self.card.shrink, batch_size=size, device=self.device
        )
        return tracked(batches, "calibration", total=len(dataset), count=len)

    def repair_images(self) -> Tensor:
        """One batch of REPAIR_IMAGES images."""
        return next(self.batches(batch_size=REPAIR_IMAGES, images=REPAIR_IMAGES))


def ptq_calib(ptq: PtqParams, evaluation: EvalParams, runtime: RuntimeParams) -> None:
    """Write the calibrated weights, `ranges.csv`, `histograms.npz`, `methods.json` and the val metrics.

    Candidates are compared on the select split, by `selection_score`; val is evaluated for the chosen one only.

    Raises:
        UserError: missing inputs, a calibration that meets NaN, or too little mAP left with `on_failure: fail`.
    """
    set_threads(runtime.threads)
    device = compute_device(runtime.device)
    log_start("ptq-calib", "torch", device=describe_device(device))
    weights = required(paths.WEIGHTS["float"], made_by=paths.MADE_BY["float"])
    network, card = load_float(weights, device=device)
    on_select, on_val = (
        SplitEvaluator(
            DetectionDataset(paths.DATASET, split), card, batch_size=ptq.batch_size, limits=limits_of(evaluation)
        )
        for split in ("select", "val")
    )
    calibration = Calibration(ptq, card, device, on_select, on_val)
    model = _with_quantizers(_equalized(network, calibration), ptq)
    try:
        statistics = collect(model, calibration.batches())
    except ValueError as error:
        raise UserError(f"calibration: {error}") from None
    report = health(model, statistics, outlier_ratio=ptq.outlier_ratio)
    _log_health(report)

    tables = {method: ranges(statistics, method) for method in _candidates(ptq)}
    float_select = on_select(network)
    compare = FloatComparison(float_select, on_select.truth)
    scores: dict[str, dict[str, float]] = {}
    for method, table in tables.items():
        set_ranges_(model, table)
        scores[str(method)] = _compared(model, str(method), calibration, compare)
    chosen = max(tables, key=lambda method: scores[str(method)]["selection_score"])
    set_ranges_(model, tables[chosen])
    scores |= _repaired(model, calibration, compare)
    results = on_val(network), on_val(model)
    document = {
        "chosen": str(chosen),
        "images": statistics.images,
        "select": {"float": _shown(float_select.stats)} | {name: _shown(row) for name, row in scores.items()},
        "health": asdict(report),
    }
    _write(model, card, tables=tables, chosen=chosen, statistics=statistics, document=document)
    _write_metrics(model, calibration, *results, chosen=chosen)


def _with_quantizers(network: nn.Module, ptq: PtqParams) -> QuantizedModel:
    record = required(paths.CPU, made_by="detect-cpu")
    cpu = read_meaning(record, parameter="ptq.cpu", allowed=get_args(CpuSums), asked=ptq.cpu)
    logger.info("INT8 for CPUs with %s sums (ptq.cpu %s)", cpu, ptq.cpu)
    record = required(paths.DIALECT, made_by="detect-cpu")
    dialect = read_meaning(record, parameter="ptq.dialect", allowed=("openvino", "ort", "trt"), asked=ptq.dialect)
    logger.info("INT8 is judged on the integers of dialect %s (ptq.dialect %s)", dialect, ptq.dialect)
    model = insert_quantizers(network, dialect_name=dialect, quantize_predictions=ptq.predictions == "int8", cpu=cpu)
    more = matching_layers(model, ptq.float_layers, where="ptq.float_layers")
    return set_float_layers_(model, state_of(model).float_layers | set(more))


def _equalized(network: nn.Module, calibration: Calibration) -> nn.Module:
    """The network with even channels as `ptq.equalize` wants them; it computes the same."""
    how = calibration.ptq.equalize
    cross_layer, depthwise = how in ("cross_layer", "all"), how in ("depthwise", "all")
    if not cross_layer and not (depthwise and depthwise_names(network)):
        return network
    peaks = input_peaks(network, calibration.batches())
    equalized = equalize(network, peaks, cross_layer=cross_layer, depthwise=depthwise)
    return equalized.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def _candidates(ptq: PtqParams) -> list[Method]:
    """Methods to compare, in the order in which a tie is decided."""
    percentiles = [Method("percentile", value) for value in ptq.percentiles]
    if ptq.method == "auto":
        return [Method("mse"), Method("entropy"), *percentiles, Method("max")]
    return percentiles if ptq.method == "percentile" else [Method(ptq.method)]


def _compared(model: QuantizedModel, name: str, calibration: Calibration, compare: FloatComparison) -> dict[str, float]:
    scores = compare(calibration.on_select(model))
    shown = scores["map50_95"], scores["agreement"]
    logger.info("%-18s select mAP50:95 %.4f, agreement with float %.4f", name, *shown)
    return scores


def _repaired(model: QuantizedModel, calibration: Calibration, compare: FloatComparison) -> dict[str, dict[str, float]]:
    """Round weights and correct biases as the section wants; the figures on select after each."""
    ptq, scores = calibration.ptq, {}
    if ptq.adaround:
        round_weights_(model, calibration.repair_images(), steps=ptq.adaround)
        scores["adaround"] = _compared(model, "+ adaround", calibration, compare)
    if ptq.bias_correction == "fast":
        correct_biases_(model, calibration.repair_images())
        scores["bias_correction"] = _compared(model, "+ bias_correction", calibration, compare)
    return scores


def _log_health(report: Health) -> None:
    for tensor in (*report.never_seen, *report.all_zero):
        logger.warning("%s held nothing but zero during calibration; its range is 0", tensor)
    for tensor, ratio in report.outlier_channels.items():
        logger.warning("%s: its largest channel is %.0f times the median one, one scale serves it badly", tensor, ratio)
    dead = sum(map(len, report.dead_channels.values()))
    if dead:
        logger.info("%d channel(s) in %d tensor(s) stayed zero during calibration", dead, len(report.dead_channels))


def _shown(scores: dict[str, float]) -> dict[str, float]:
    return {name: scores[name] for name in ("map50_95", "map50", "agreement") if name in scores}


def _write(
    model: QuantizedModel,
    card: NetworkCard,
    *,
    tables: dict[Method, Ranges],
    chosen: Method,
    statistics: Statistics,
    document: dict[str, Any],
) -> None:
    rows = range_table(statistics, {str(method): table for method, table in tables.items()})
    arrays = {}
    for group, histogram in statistics.histograms.items():
        arrays[f"{group}.counts"] = histogram.counts
        arrays[f"{group}.width_low_high"] = np.array([histogram.width, histogram.low, histogram.high])
    with replace_folder(paths.PTQ) as folder:
        save_quantized(folder / paths.WEIGHTS["ptq"].name, model, card, method=str(chosen))
        write_rows(folder / "ranges.csv", [asdict(row) for row in rows], digits=8)
        np.savez_compressed(folder / "histograms.npz", **arrays)
        write_json(folder / "methods.json", document)


def _write_metrics(
    model: QuantizedModel, calibration: Calibration, float_val: EvalResult, ptq_val: EvalResult, *, chosen: Method
) -> None:
    """Write the metrics, and complain if too little of the float mAP is left."""
    ptq = calibration.ptq
    score, float_score = ptq_val.stats["map50_95"], float_val.stats["map50_95"]
    kept = retention(score, float_score)
    write_json(METRICS, {"map50_95": score, "map50": ptq_val.stats["map50"]})
    log_classes({"float": float_val, "ptq": ptq_val})
    logger.info("ptq by %s: val mAP50:95 %.4f, %s of the float %.4f", chosen, score, told_share(kept), float_score)
    if float_score <= 0:
        logger.warning("the float network finds nothing on val, so that nothing can be compared: train it longer")
    if not kept < ptq.min_retention:
        return
    noisiest = noise_table(tensor_noise(model, [calibration.repair_images()])[:NOISY_TENSORS])
    logger.warning("tensors with the lowest signal-to-noise ratio, mean over their channels:\n%s", noisiest)
    message = (
        f"PTQ keeps {100 * kept:.1f} % of the float mAP50:95 on val, less than ptq.min_retention "
        f"{100 * ptq.min_retention:.1f} %; see outlier_channels in {paths.PTQ / 'methods.json'}, ptq.equalize, more "
        "calibration images, or the sensitivity and qat-distill stages"
    )
    if ptq.on_failure == "fail":
        raise UserError(message)
    logger.warning(message)
