"""How far to trust differences of mAP between engines: standard errors, and agreement with the float engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from yolov6core.evaluation.agreement import agreement
from yolov6core.evaluation.evaluator import EvalResult
from yolov6core.evaluation.jackknife import map_without_parts, standard_error


def certainty(truth: Mapping[str, Any], results: Mapping[str, EvalResult]) -> dict[str, dict[str, float]]:
    """Kind of engine -> `map_error`, and beside a float engine `drop_error` and `agreement`.

    `map_error` is the jackknife's standard error of mAP50:95. `drop_error` is the one of its difference to the float
    engine on the same images. `agreement` is mAP50:95 against the float engine's detections (see `agreement`).

    Args:
        truth: COCO dict of the split.
        results: of the same split.
    """
    without = {kind: map_without_parts(truth, result.detections) for kind, result in results.items()}
    rows = {kind: {"map_error": standard_error(values)} for kind, values in without.items()}
    if "float" in results:
        for kind, values in without.items():
            gains = [own - base for own, base in zip(values, without["float"], strict=True)]
            rows[kind]["drop_error"] = standard_error(gains)
            rows[kind]["agreement"] = agreement(truth, results["float"].detections, results[kind].detections)
    return rows
