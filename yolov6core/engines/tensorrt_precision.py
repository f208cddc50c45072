"""Weakly typed networks (TensorRT 8, and calibration caches up to 10): which layers must not be INT8 or FP16.

TensorRT chooses the type of each layer by speed there. A layer is kept float by its own precision and the type of its
output. A scale that is left out of the cache would make its neighbours float as well.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from yolov6core.exchange.calibration_cache import read_cache, write_cache

logger = logging.getLogger(__name__)
UNTYPED = ("CONSTANT", "CONCATENATION", "SHAPE", "SHUFFLE", "SLICE", "GATHER")
"""Kinds of layers that compute nothing: they take their type from their neighbours."""


def pin_float_layers(
    trt: Any, network: Any, config: Any, *, convolutions: Sequence[str], decoding: Sequence[str]
) -> None:
    """Keep layers of a network float: convolutions in FP16, and the decoding of boxes in FP32.

    FP16 has steps of half a pixel for coordinates above 512. Versions before 8.2 have no such constraints.

    Args:
        convolutions: names of nodes of the file that a calibration cache would otherwise make INT8.
        decoding: names of the nodes behind the last convolutions.
    """
    wanted = dict.fromkeys(decoding, trt.DataType.FLOAT) | dict.fromkeys(convolutions, trt.DataType.HALF)
    untyped = {getattr(trt.LayerType, name) for name in UNTYPED}
    pinned: set[str] = set()
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        kind = wanted.get(layer.name)
        if kind is None or layer.type in untyped:
            continue
        outputs = [layer.get_output(position) for position in range(layer.num_outputs)]
        if any(output.dtype not in (trt.DataType.FLOAT, trt.DataType.HALF) for output in outputs):
            continue
        layer.precision = kind
        for position in range(layer.num_outputs):
            layer.set_output_type(position, kind)
        pinned.add(layer.name)
    if pinned:
        config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    if lost := [name for name in convolutions if name not in pinned]:
        logger.warning("TensorRT may run float layers in INT8, its network lacks them by name: %s", ", ".join(lost))


def cache_reader(trt: Any, path: Path) -> Any:
    """A calibrator that holds the scales of a calibration cache and no images. Raises ValueError for a broken file."""
    scales = read_cache(path.read_text(encoding="utf-8"))
    text = write_cache(scales, version=cache_version(trt.__version__)).encode()

    class Reader(trt.IInt8EntropyCalibrator2):
        def get_batch_size(self) -> int:
            return 1

        def get_batch(self, names: list[str]) -> None:
            return None  # everything is in the cache

        def read_calibration_cache(self) -> bytes:
            return text

        def write_calibration_cache(self, cache: bytes) -> None:
            return None

    return Reader()


def cache_version(version: str) -> str:
    """Version as the header of a calibration cache writes it: '8.6.1' -> '8601', '10.3.0' -> '100300'."""
    major, minor, patch = (int(part) for part in version.split(".")[:3])
    return str(major * (10000 if major >= 10 else 1000) + minor * 100 + patch)
