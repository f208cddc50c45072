"""INT8 by TensorRT's own calibration (versions 8 to 10): it runs a float network on images and finds the scales."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from yolov6core.base.errors import brief
from yolov6core.engines.cuda_memory import CudaMemory
from yolov6core.engines.onnx_facts import OnnxFacts
from yolov6core.engines.record import channels_first
from yolov6core.engines.tensorrt_import import import_tensorrt
from yolov6core.exchange.float32 import to_float32

CALIBRATED = "calibrated"
"""In place of a dialect in the sidecar: a float file whose scales TensorRT has found itself."""
SCALES = "calibration.cache"
"""Beside the engine: the scales that TensorRT has found."""
MOST_IMAGES = 8
"""Of one batch, where the file leaves it open."""


class CalibrationImages(Protocol):
    """Images that are representative of those in use."""

    def __len__(self) -> int:
        """Number of images."""
        ...

    def batches(self, *, image_size: tuple[int, int], shrink: int, batch_size: int) -> Iterator[np.ndarray]:
        """All images as networks see them, float32 RGB [B, 3, H, W] in 0..1; the last batch may be smaller.

        Args:
            image_size: (height, width).
            shrink: pixels of the grey frame, see `Interface.shrink`.

        Raises:
            ValueError: an image cannot be read.
        """
        ...


def calibrates(flavour: str) -> bool:
    """Whether TensorRT has a calibrator of its own: versions 8 to 10 do. Raises RuntimeMissing."""
    return hasattr(import_tensorrt(flavour), "IInt8EntropyCalibrator2")


def calibrated_facts(facts: OnnxFacts) -> OnnxFacts:
    """Facts of a float file as TensorRT is given it here: it may run every convolution in INT8.

    Raises:
        ValueError: the file has quantizers, which say where INT8 is wanted.
    """
    if facts.quantized:
        raise ValueError(f"it quantizes {facts.quantized} convolutions itself; TensorRT calibrates float files only")
    return replace(facts, dialect=CALIBRATED, precision="fp32", quantized=facts.convs)


def float32_bytes(path: Path) -> bytes:
    """A float file as TensorRT takes it to calibrate: it runs the network in float32 for that."""
    import onnx

    return to_float32(onnx.load(path)).SerializeToString()


def batch_of(facts: OnnxFacts, count: int) -> int:
    """Images of one batch: the file's own, or of an open one the most that leave no smaller batch at the end."""
    fixed = facts.input_shape[0]
    return fixed if fixed != -1 else max(size for size in range(1, MOST_IMAGES + 1) if count % size == 0)


def calibrator_of(flavour: str, facts: OnnxFacts, images: CalibrationImages, memory: CudaMemory) -> Any:
    """An IInt8EntropyCalibrator2 that feeds images.

    An exception inside of a callback is lost: TensorRT prints it, and builds from the batches that it has. The
    calibrator keeps it, and `raise_failure` raises it.

    Args:
        images: at least one.
        memory: for one batch at a time.
    """
    trt, size = import_tensorrt(flavour), batch_of(facts, len(images))
    _, _, height, width = channels_first(facts.input_shape)
    loaded = images.batches(image_size=(height, width), shrink=facts.interface.shrink, batch_size=size)

    class Calibrator(trt.IInt8EntropyCalibrator2):
        def __init__(self) -> None:
            super().__init__()
            self.error: BaseException | None = None
            self.scales = b""
            self._addresses = _uploaded((facts.interface.feed(_filled(batch, size)) for batch in loaded), memory)

        def get_batch_size(self) -> int:
            return size

        def get_batch(self, names: list[str]) -> list[int] | None:
            if self.error is not None:
                return None
            try:
                address = next(self._addresses, None)
            except BaseException as error:  # Ctrl-C, too
                self.error = error
                return None
            return None if address is None else [address]

        def read_calibration_cache(self) -> None:
            return None  # scales of an earlier build are those of other weights or images

        def write_calibration_cache(self, cache: Any) -> None:
            self.scales = bytes(cache)

    return Calibrator()


def raise_failure(calibrator: Any) -> None:
    """Raise what has stopped the calibration, if anything has.

    Raises:
        ValueError: an image could not be read, or not be copied to the GPU.
    """
    error = calibrator.error
    if isinstance(error, ValueError):
        raise ValueError(f"calibration: {error}") from error
    if isinstance(error, RuntimeError):  # of torch
        raise ValueError(f"calibration: a batch cannot be copied to the GPU ({brief(error)})") from error
    if error is not None:
        raise error


def scales_of(calibrator: Any) -> bytes:
    """The calibration cache that TensorRT has made. Raises ValueError where it has made none."""
    if not calibrator.scales:
        raise ValueError("calibration: TensorRT has built an engine and found no scales; its log says why")
    return calibrator.scales


def _filled(batch: np.ndarray, size: int) -> np.ndarray:
    """A batch of exactly `size` images: the last one of a fixed size begins again."""
    return batch if len(batch) == size else batch[np.arange(size) % len(batch)]


def _uploaded(batches: Iterable[np.ndarray], memory: CudaMemory) -> Iterator[int]:
    """Address of each batch on the GPU; it is overwritten by the next one."""
    device = None
    for batch in batches:
        data = torch.from_numpy(batch)
        device = memory.device(data.shape, data.dtype) if device is None else device
        with memory.queue():
            device.copy_(data)
        memory.synchronize()
        yield device.data_ptr()
