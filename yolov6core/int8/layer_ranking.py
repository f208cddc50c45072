"""Sensitivity of layers: the outputs that count in a detector, and the mAP with one layer quantized alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from yolov6core.base.atomic import write_text
from yolov6core.base.errors import logger
from yolov6core.evaluation.agreement import agreement
from yolov6core.evaluation.evaluator import EvalResult
from yolov6core.int8.float_comparison import score_of
from yolov6core.models.card import NetworkCard
from yolov6core.models.head import decode
from yolov6core.quant.insert import QuantizedModel
from yolov6core.quant.selection import SIGNIFICANT, Score, significant_drop
from yolov6core.quant.sensitivity import Readout, detection_readout, exact_results, quantized_names, spearman

Columns = dict[str, dict[str, float]]
"""Name of a measure -> layer -> value."""


def readout(card: NetworkCard) -> Readout:
    """Scores and boxes of a detector's raw outputs, weighted as `detection_readout` says."""
    return lambda raw: detection_readout(*decode(*raw, image_size=card.image_size, strides=card.strides))


def measure_exactly(
    model: QuantizedModel,
    *,
    evaluate: Callable[[nn.Module], EvalResult],
    float_result: EvalResult,
    truth: Mapping[str, Any],
    state: Path | None = None,
) -> Columns:
    """Every layer quantized alone, all others float.

    Args:
        evaluate: network -> its figures on the images that count.
        float_result: the same of the float network.
        truth: COCO annotations of these images.
        state: file that keeps results as they come; an interrupted run continues from it.

    Returns: `drop`, the mAP lost against the labels; `noise`, its standard error; `disagreement`, the mAP lost against
    the float network's own detections (see `agreement`); and `exact`, the sensitivity that follows from the three, see
    `significant_drop`.
    """
    whole = score_of(float_result, truth)

    def measure(network: nn.Module) -> dict[str, Any]:
        result = evaluate(network)
        same = agreement(truth, float_result.detections, result.detections)
        return {**asdict(score_of(result, truth)), "agreement": same}

    known = json.loads(state.read_text(encoding="utf-8")) if state is not None and state.is_file() else {}
    if known:
        logger.info("%d layers were measured before, see %s", len(known), state)

    def keep(results: dict[str, dict[str, Any]]) -> None:
        if state is not None:
            write_text(state, json.dumps(results))

    results = exact_results(model, quantized_names(model), evaluate=measure, known=known, keep=keep)
    scores = {name: Score(row["value"], tuple(row["without"])) for name, row in results.items()}
    columns = {
        "drop": {name: whole.value - score.value for name, score in scores.items()},
        "noise": {name: score.noise_of_gain(whole) for name, score in scores.items()},
        "disagreement": {name: 1 - row["agreement"] for name, row in results.items()},
    }
    return columns | {"exact": significant_drop(columns["drop"], columns["noise"], columns["disagreement"])}


def log_correlations(columns: Columns) -> None:
    """Log the rank correlations of the fast measure with the exact ones."""
    names = list(columns["fast"])
    sure = [name for name in names if columns["drop"][name] > SIGNIFICANT * columns["noise"][name]]
    logger.info("the mAP drop of %d of %d layers exceeds %g standard errors", len(sure), len(names), SIGNIFICANT)
    series = {"exact": names, "disagreement": names, "drop": names}
    for column, chosen in (*series.items(), ("drop", sure)):
        if len(chosen) > 1:
            rank = spearman(*([columns[title][name] for name in chosen] for title in ("fast", column)))
            logger.info("Spearman of fast with %-12s over %3d layers: %.2f", column, len(chosen), rank)
