"""Layers measured for `sensitivity`: what counts in a detector's outputs, and the mAP of a layer quantized alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages._judge import score_of
from yolov6core.atomic import write_text
from yolov6core.errors import logger

if TYPE_CHECKING:
    from torch import nn

    from yolov6core.evaluation.evaluator import EvalResult
    from yolov6core.quant.insert import QuantizedModel
    from yolov6core.quant.sensitivity import Readout

Columns = dict[str, dict[str, float]]
"""Name of a measure -> layer -> value."""


def readout(meta: dict[str, Any]) -> Readout:
    """Scores and boxes of a detector's raw outputs, weighted as `detection_readout` says.

    Args:
        meta: of a checkpoint (strides and image size).
    """
    from yolov6core.models.head import decode
    from yolov6core.quant.sensitivity import detection_readout

    size, strides = tuple(meta["image_size"]), meta["model"]["strides"]
    return lambda raw: detection_readout(*decode(*raw, image_size=size, strides=strides))


def measure_exactly(
    gm: QuantizedModel,
    *,
    evaluate: Callable[[nn.Module], EvalResult],
    float_result: EvalResult,
    truth: dict[str, Any],
    state: Path | None = None,
) -> Columns:
    """Every layer quantized alone, all others float.

    Args:
        evaluate: network -> its figures on the images that count.
        float_result: the same of the float network.
        truth: COCO annotations of these images.
        state: results are kept there as they come, and an interrupted run continues from them.

    Returns: `drop`, the mAP lost against the labels; `noise`, its standard error; `disagreement`, what is lost against
    the float network's own detections (see `agreement`); and `exact`, the harm from the three, see `sure_harm`.
    """
    from yolov6core.evaluation.agreement import agreement
    from yolov6core.quant.selection import Score, sure_harm
    from yolov6core.quant.sensitivity import exact_results, quantized_names

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

    results = exact_results(gm, quantized_names(gm), evaluate=measure, known=known, keep=keep)
    scores = {name: Score(row["value"], tuple(row["without"])) for name, row in results.items()}
    columns = {
        "drop": {name: whole.value - score.value for name, score in scores.items()},
        "noise": {name: score.noise_of_gain(whole) for name, score in scores.items()},
        "disagreement": {name: 1 - row["agreement"] for name, row in results.items()},
    }
    return columns | {"exact": sure_harm(columns["drop"], columns["noise"], columns["disagreement"])}


def log_agreement(columns: Columns) -> None:
    """Rank correlations of the fast measure with the exact ones."""
    from yolov6core.quant.selection import SURE
    from yolov6core.quant.sensitivity import spearman

    names = list(columns["fast"])
    sure = [name for name in names if columns["drop"][name] > SURE * columns["noise"][name]]
    logger.info("the mAP drop of %d of %d layers exceeds %g standard errors", len(sure), len(names), SURE)
    series = {"exact": names, "disagreement": names, "drop": names}
    for column, chosen in (*series.items(), ("drop", sure)):
        if len(chosen) > 1:
            rank = spearman(*([columns[title][name] for name in chosen] for title in ("fast", column)))
            logger.info("Spearman of fast with %-12s over %3d layers: %.2f", column, len(chosen), rank)
