"""The section `eval` as the plain values that evaluations take."""

from __future__ import annotations

from stages.params import EvalParams
from yolov6core.evaluation.evaluator import DetectionLimits


def limits_of(evaluation: EvalParams) -> DetectionLimits:
    """Which detections count."""
    return DetectionLimits(evaluation.score_threshold, evaluation.iou_threshold, evaluation.max_detections)
