"""Ranges of a network as the text files of other toolkits, by the names of its ONNX tensors.

Formats, as their makers document them:
- `aimet`: Qualcomm's AIMET encodings, version 0.6.1; QNN and SNPE take them as quantization overrides.
- `ppq`: the configuration that OpenPPL's PPQ writes beside a network, with the `act_quant_info` of its TensorRT export.
- `tensorrt`: a line `tensor: largest magnitude` each, as NVIDIA's sampleINT8API reads them for `setDynamicRange`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from yolov6core.export.plain_ranges import PlainRanges, TensorGrid

if TYPE_CHECKING:
    import onnx

WEIGHT_LIMITS = (-128, 127)
"""Integers of weights in the files; our weights use -127 .. 127 of them."""
PLATFORM = "TRT_INT8"
"""PPQ's name of the platform with these grids: symmetric int8, weights per channel."""


def aimet_encodings(ranges: PlainRanges) -> str:
    """JSON of AIMET's encodings 0.6.1; offsets are negative there, real value = (integer + offset) * scale."""
    activations = {name: [_aimet(grid)] for name, grid in ranges.activations.items()}
    weights = {
        name: [_aimet(TensorGrid(scale, 0, *WEIGHT_LIMITS)) for scale in scales.tolist()]
        for name, scales in ranges.weights.items()
    }
    document = {
        "version": "0.6.1",
        "activation_encodings": activations,
        "param_encodings": weights,
        "quantizer_args": {
            "activation_bitwidth": 8,
            "dtype": "int",
            "is_symmetric": True,  # of the weights, as AIMET writes it
            "param_bitwidth": 8,
            "per_channel_quantization": True,
            "quant_scheme": "post_training_tf",
        },
    }
    return json.dumps(document, indent=1) + "\n"


def _aimet(grid: TensorGrid) -> dict[str, Any]:
    low, high = grid.limits
    return {
        "bitwidth": 8,
        "dtype": "int",
        "is_symmetric": str(grid.symmetric),
        "max": high,
        "min": low,
        "offset": grid.low - grid.zero_point,
        "scale": grid.scale,
    }


def dynamic_ranges(ranges: PlainRanges) -> str:
    """Lines `tensor: magnitude` for TensorRT's `setDynamicRange(-magnitude, magnitude)`, which 8 to 10 have.

    Raises:
        ValueError: a grid that is not symmetric.
    """
    return "".join(f"{name}: {peak:.9g}\n" for name, peak in _peaks(ranges).items())


def ppq_config(ranges: PlainRanges) -> str:
    """JSON of PPQ: `configs` by operator and tensor, their `values`, and `act_quant_info` for TensorRT.

    Raises:
        ValueError: a grid that is not symmetric.
    """
    owners: dict[str, int] = {}
    configs: dict[str, dict[str, Any]] = {}
    values: dict[str, Any] = {}
    for node in ranges.model.graph.node:
        if node.op_type != "Conv":
            continue
        tensors = dict(_quantized_tensors(node, ranges))
        if len(tensors) < 2:  # a float convolution may read a tensor that others quantize
            continue
        for name, (scales, per_channel) in tensors.items():
            number = owners.setdefault(name, len(owners) + 1)
            values[str(number)] = {"scale": scales, "zero_point": [0.0] * len(scales) if per_channel else 0.0}
            configs.setdefault(node.name, {})[name] = {
                "bit_width": 8,
                "policy": _policy(per_channel=per_channel),
                "state": "ACTIVATED",
                "quant_min": WEIGHT_LIMITS[0],
                "quant_max": WEIGHT_LIMITS[1],
                "hash": number,
                "dominator": number,
            }
    platforms = {node.name: PLATFORM if node.name in configs else "FP32" for node in ranges.model.graph.node}
    document = {"configs": configs, "dispatchings": platforms, "values": values, "act_quant_info": _peaks(ranges)}
    return json.dumps(document, indent=1) + "\n"


def _quantized_tensors(node: onnx.NodeProto, ranges: PlainRanges) -> Iterator[tuple[str, tuple[Any, bool]]]:
    """Name of each input of a convolution that has a range -> its scale or scales, and whether it has several."""
    data, weight = node.input[:2]
    if data in ranges.activations:
        yield data, (ranges.activations[data].scale, False)
    if weight in ranges.weights:
        yield weight, (ranges.weights[weight].tolist(), True)


def _policy(*, per_channel: bool) -> dict[str, bool]:
    return {
        "PER_TENSOR": not per_channel,
        "PER_CHANNEL": per_channel,
        "LINEAR": True,
        "EXPONENTIAL": False,
        "SYMMETRICAL": True,
        "ASYMMETRICAL": False,
        "POWER_OF_2": False,
    }


def _peaks(ranges: PlainRanges) -> dict[str, float]:
    """Tensor -> largest magnitude on its grid, without the one more negative integer."""
    if not ranges.cached:
        raise ValueError("the network is on a grid with zero points; the format holds symmetric ranges only")
    return {name: WEIGHT_LIMITS[1] * scale for name, scale in ranges.cached.items()}


@dataclass(frozen=True)
class RangeDocument:
    """A style of documents.

    Attributes:
        write: the ranges of a network -> text of the file.
        suffix: of the file.
        dialects: quantization dialects (keys of `quant.spec.DIALECTS`) whose ranges it can hold, the best first.
    """

    write: Callable[[PlainRanges], str]
    suffix: str
    dialects: tuple[str, ...]


DOCUMENTS = {
    "aimet": RangeDocument(aimet_encodings, ".encodings", ("ort", "trt")),
    "ppq": RangeDocument(ppq_config, ".json", ("trt",)),
    "tensorrt": RangeDocument(dynamic_ranges, ".txt", ("trt",)),
}
"""Style -> its writer."""
