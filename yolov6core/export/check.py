"""Exported files run against the torch model that they came from, and the judgement of the difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from yolov6core.evaluation.nms import nms
from yolov6core.exchange.compare import Outputs, compare_outputs, detection_rows, differing_rows
from yolov6core.exchange.overflow import overflowing_convolutions
from yolov6core.export.dialects import Export
from yolov6core.export.graph_nms import INNER, with_inner
from yolov6core.export.onnx_run import open_detector, open_outputs

FP16_TOLERANCE = 0.02
"""Relative error of a float network in half precision (11 bits, some sixty layers)."""
NMS_TOLERANCE = 0.01
"""Share of detections that suppression in the graph may choose otherwise: overlaps within rounding of the threshold."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Tolerance:
    """Largest relative L2 error of a float file, and of a quantized one in units of the error of quantization itself.

    A quantized file cannot match the last bit: a difference of 1e-6 flips a rounding, and flips multiply through the
    layers.
    """

    float_error: float
    quantization_factor: float


def check_file(
    written: Export, images: Sequence[np.ndarray], wanted: list[Outputs], exact: list[Outputs] | None, allow: Tolerance
) -> Row:
    """Differences of a file from torch over all images, and whether they are allowed.

    Args:
        images: batches [B, 3, H, W] float32 in 0..1.
        wanted: outputs of the torch model, one (boxes, scores) a batch.
        exact: outputs of the same model without quantization; None for files that do not round.

    Returns: a row of the report, with `relative_l2`, `allowed_l2` and `ok`.
    """
    import onnx

    row: Row = {
        "dialect": written.dialect,
        "quantized_convs": written.quantized_convs,
        "convs": written.convs,
        "overflowing_convs": len(overflowing_convolutions(onnx.load(written.path))),
    }
    if written.interface.nms == "none":
        run = open_detector(written.path, written.dialect)
        row |= compare_outputs([run(image) for image in images], wanted)
    else:
        row |= _compare_suppressed(written, images, wanted)
    allowed = max(allow.float_error, FP16_TOLERANCE if written.fp16 else 0.0)
    if exact is not None:
        row["quantization_l2"] = compare_outputs(wanted, exact)["relative_l2"]
        allowed += allow.quantization_factor * row["quantization_l2"]
    ok = row["relative_l2"] <= allowed and row.get("detections_differ", 0) <= NMS_TOLERANCE * row.get("detections", 0)
    return row | {"size_mb": round(written.path.stat().st_size / 1e6, 3), "allowed_l2": allowed, "ok": ok}


def _compare_suppressed(written: Export, images: Sequence[np.ndarray], wanted: list[Outputs]) -> Row:
    """The boxes before suppression against torch, and the boxes that the graph keeps against our own suppression."""
    import onnx

    interface = written.interface
    run = open_outputs(with_inner(onnx.load(written.path)).SerializeToString(), written.dialect)
    results = [run(interface.feed(image)) for image in images]
    row: Row = dict(compare_outputs([(result[INNER[0]], result[INNER[1]]) for result in results], wanted))
    if interface.nms == "efficient_nms":
        return row
    differ = count = 0
    for result in results:
        for image, (boxes, scores) in enumerate(zip(*(result[name] for name in INNER), strict=True)):
            rows = nms(
                boxes,
                interface.considered(scores),
                score_threshold=interface.score_threshold,
                iou_threshold=interface.iou_threshold,
                max_detections=interface.max_detections,
            )
            differ += differing_rows(detection_rows(result, image), rows)
            count += len(rows)
    return row | {"detections": count, "detections_differ": differ}


def describe(name: str, row: Row) -> str:
    """One line for people."""
    noise = f", quantization itself {row['quantization_l2']:.2g}" if "quantization_l2" in row else ""
    return (
        f"{name:22} {row['size_mb']:6.1f} MB  {row['quantized_convs']:3d} of {row['convs']} convolutions quantized  "
        f"relative error {row['relative_l2']:.2g}{noise}"
    )


def complaint(name: str, row: Row) -> str:
    """The differences of a file that is not `ok`."""
    text = f"{name}: relative error {row['relative_l2']:.3g}, allowed {row['allowed_l2']:.3g}"
    if "detections" in row:
        text += f"; {row['detections_differ']} of {row['detections']} detections differ"
    return text
