"""The grid that a quantized network is traced on for a file of each dialect, and what is told about it."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

from yolov6core.exchange.graph_view import convolutions
from yolov6core.exchange.onnx_notes import QUANTIZED, set_note
from yolov6core.export.dialects import grid_of, slow_in_int8
from yolov6core.quant.insert import (
    QuantizedModel,
    convolution_names,
    set_dialect_,
    set_float_layers_,
    uncalibrated,
)
from yolov6core.quant.spec import DIALECTS

if TYPE_CHECKING:
    import onnx

logger = logging.getLogger(__name__)
CACHE_GRID = "trt_all"
"""A cache has a scale for every tensor beside a convolution, also for those of float layers."""
CACHE_OPSET = 17
"""Last opset that TensorRT 8 reads; caches are what it takes."""


def choose_grid_(
    gm: QuantizedModel,
    dialect: str,
    floats: frozenset[str],
    *,
    nms: str = "none",
    dynamic_batch: bool = False,
    activations: str = "uint8",
) -> str:
    """Set the grid on which a network is traced for a file, in place.

    Args:
        floats: module paths of the convolutions that stay float.
        nms, dynamic_batch, activations: see `grid_of`.

    Returns: its name, key of `quant.spec.DIALECTS`. With CACHE_GRID all convolutions are quantized in the trace, and
        `note_quantized` says which are meant.
    """
    if dialect == "cache":
        set_float_layers_(set_dialect_(gm, CACHE_GRID), ())
        missing = uncalibrated(gm)
        if not missing:
            return CACHE_GRID
        logger.warning(
            "%d tensors have no range, such as %s: TensorRT runs the convolutions that give them in float, where it "
            "builds from the calibration cache; 'dvc repro ptq-calib' finds all ranges",
            len(missing),
            missing[0],
        )
    grid = grid_of(dialect, nms=nms, dynamic_batch=dynamic_batch, activations=activations)
    set_float_layers_(set_dialect_(gm, grid), floats | slow_in_int8(gm, dialect))
    return grid


def note_quantized(model: onnx.ModelProto, gm: QuantizedModel, floats: frozenset[str]) -> None:
    """Name the convolutions of a traced network that are meant to be quantized, in its notes.

    Raises:
        ValueError: the trace has other convolutions than the network.
    """
    traced, names = list(convolutions(model)), convolution_names(gm)
    if len(traced) != len(names):
        raise ValueError(f"the trace has {len(traced)} convolutions, the network {len(names)}")
    meant = [node for node, name in zip(traced, names, strict=True) if name not in floats]
    set_note(model, QUANTIZED, json.dumps(meant))


def other_grid(
    chosen: str, dialect: str, *, nms: str = "none", dynamic_batch: bool = False, activations: str = "uint8"
) -> bool:
    """Whether a file of `dialect` rounds to other integers than the quantization dialect `chosen`.

    Choices of methods and layers, and QAT, are made on one grid. On another one they were never judged.
    """
    grid = grid_of(dialect, nms=nms, dynamic_batch=dynamic_batch, activations=activations)
    used, judged = DIALECTS[grid], DIALECTS[chosen]
    return (used.grid, used.edges) != (judged.grid, judged.edges)
