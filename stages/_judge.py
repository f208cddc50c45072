"""How good quantized networks are on the select split, beside the float network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stages._evaluation import DATASET

if TYPE_CHECKING:
    from yolov6core.evaluation.evaluator import EvalResult
    from yolov6core.quant.selection import Score


def score_of(result: EvalResult, truth: dict[str, Any]) -> Score:
    """mAP50:95, and what it becomes without every tenth image. `truth`: COCO annotations of the images."""
    from yolov6core.evaluation.jackknife import map_without_parts
    from yolov6core.quant.selection import Score

    return Score(result.stats["map50_95"], tuple(map_without_parts(truth, result.detections)))


class Judge:
    """Compares results on the select split with that of the float network.

    Args:
        reference: what the float network found there.
    """

    def __init__(self, reference: EvalResult) -> None:
        from yolov6core.data.dataset import DetectionDataset

        self.reference, self.truth = reference, DetectionDataset(DATASET, "select").ground_truth()
        self.score = score_of(reference, self.truth)

    def __call__(self, result: EvalResult) -> dict[str, float]:
        """`map50_95`, `map50`, `agreement` with the float network, and `merit`, by which results are compared."""
        from yolov6core.evaluation.agreement import agreement
        from yolov6core.quant.selection import merit

        same = agreement(self.truth, self.reference.detections, result.detections)
        return {
            "map50_95": result.stats["map50_95"],
            "map50": result.stats["map50"],
            "agreement": same,
            "merit": merit(score_of(result, self.truth), self.score, agreement=same),
        }
