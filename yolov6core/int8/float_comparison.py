"""How good quantized networks are beside the float network, on the same images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from yolov6core.evaluation.agreement import agreement
from yolov6core.evaluation.evaluator import EvalResult
from yolov6core.evaluation.jackknife import map_without_parts
from yolov6core.quant.selection import Score, selection_score


def score_of(result: EvalResult, truth: Mapping[str, Any]) -> Score:
    """mAP50:95, and its values without every tenth image. `truth`: COCO annotations of the images."""
    return Score(result.stats["map50_95"], tuple(map_without_parts(truth, result.detections)))


def retention(score: float, float_score: float) -> float:
    """Share of the float network's score that is left; NaN where there is nothing to lose."""
    return score / float_score if float_score > 0 else math.nan


def told_share(share: float) -> str:
    """A share in percent for people; "-" for NaN."""
    return "-" if math.isnan(share) else f"{100 * share:.1f} %"


class FloatComparison:
    """Result of a network -> figures beside the float network's.

    The figures are `map50_95`, `map50`, `agreement` with the float network's detections, and `selection_score`, by
    which networks are compared.
    """

    def __init__(self, reference: EvalResult, truth: Mapping[str, Any]) -> None:
        """`reference`: result of the float network. `truth`: COCO annotations of the images."""
        self.reference, self.truth = reference, truth
        self.score = score_of(reference, truth)

    def __call__(self, result: EvalResult) -> dict[str, float]:
        same = agreement(self.truth, self.reference.detections, result.detections)
        return {
            "map50_95": result.stats["map50_95"],
            "map50": result.stats["map50"],
            "agreement": same,
            "selection_score": selection_score(score_of(result, self.truth), self.score, agreement=same),
        }
