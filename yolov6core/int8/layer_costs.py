"""Cost of each float layer: latency by the counters of OpenVINO or TensorRT, or arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from yolov6core.base.errors import logger
from yolov6core.export.layer_times import openvino_layer_times
from yolov6core.export.tensorrt_layer_times import tensorrt_layer_times
from yolov6core.quant.insert import QuantizedModel
from yolov6core.quant.sensitivity import layer_macs


@dataclass(frozen=True)
class Costs:
    """Cost of each float layer, as a share of the INT8 network's `unit`."""

    unit: str
    shares: dict[str, float]


def layer_costs(
    model: QuantizedModel, image_size: tuple[int, int], *, runtime: Literal["openvino", "tensorrt"] | None, threads: int
) -> Costs:
    """Measured latency or multiply-adds.

    Measured times differ a little from run to run. A ranking that does not need them does without.

    Args:
        image_size: (height, width) of the input, pixels.
        runtime: that measures; where it is missing or cannot, a warning is logged. None: arithmetic is counted.
        threads: of OpenVINO's measurement; 0 for all cores.
    """
    try:
        if runtime is not None:
            if runtime == "tensorrt":
                times = tensorrt_layer_times(model, image_size=image_size)
            else:
                times = openvino_layer_times(model, image_size=image_size, threads=threads)
            return Costs("INT8 latency", {name: extra / times.int8 for name, extra in times.extra.items()})
    except ValueError as error:  # the runtime is missing, or its counters do not tell
        logger.warning("sensitivity.cost: %s; multiply-adds are counted instead", error)
    device = next(model.parameters()).device
    return Costs("arithmetic", layer_macs(model, torch.zeros(1, 3, *image_size, device=device)))
