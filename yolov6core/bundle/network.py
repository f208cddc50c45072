"""The network of a bundle in torch, on the grid of its files, and the files that are written and checked from it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from yolov6core.base.errors import UserError
from yolov6core.bundle.request import BundleRequest, PlannedFile
from yolov6core.engines.compatibility import check_combination
from yolov6core.exchange.compare import Outputs
from yolov6core.exchange.interface import Interface
from yolov6core.export.check import Row, check_file, complaint
from yolov6core.export.dialects import Export, write_traced
from yolov6core.export.grids import CACHE_GRID, choose_grid_, note_quantized
from yolov6core.export.onnx_export import OUTPUTS, RAW_OUTPUTS, save_onnx, to_onnx
from yolov6core.export.qdq import unfold_weights
from yolov6core.int8.quantized_networks import load_quantized
from yolov6core.models.card import NetworkCard
from yolov6core.models.decoded import DecodedNetwork, run_module
from yolov6core.quant.insert import (
    QuantizedModel,
    quantizers_off,
    ready_for_export_,
    state_of,
    uncalibrated,
)
from yolov6core.tasks.networks import load_float

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class TorchNetwork:
    """A float or fake-quantized network.

    Attributes:
        network: raw outputs, see `models.head`.
        decoded: the same with boxes and scores as outputs.
        interface: of the files that are written from it.
        floats: module paths of the convolutions that stay float, where others are quantized.
    """

    card: NetworkCard
    network: nn.Module
    decoded: nn.Module
    interface: Interface
    floats: frozenset[str]

    def run(self, images: Sequence[np.ndarray], *, quantized: bool = True) -> list[Outputs]:
        """Boxes [B, A, 4] and scores [B, A, C] of batches float32 [B, 3, H, W] in 0..1."""
        network = self.network
        with quantizers_off(network) if isinstance(network, QuantizedModel) and not quantized else nullcontext():
            return [run_module(self.decoded, image) for image in images]


def open_network(request: BundleRequest, dialect: str) -> TorchNetwork:
    """Load the network of a request, on the grid of the files' dialect.

    Raises:
        UserError: the checkpoint is missing or damaged, was not calibrated for this grid, or does not fit image_size.
        ValueError: the interface contradicts itself.
    """
    floats: frozenset[str] = frozenset()
    if request.kind == "float":
        network, card = load_float(request.weights)
    else:
        network, card = load_quantized(request.weights)
        floats = state_of(network).float_layers
        _set_grid(ready_for_export_(network), request, dialect, floats)
    size = request.image_size or card.image_size
    stride = max(card.strides)
    if size[0] % stride or size[1] % stride:
        raise UserError(f"image_size is {list(size)}; both sides have to be multiples of {stride}")
    interface = Interface(
        form=request.form,
        nms=request.nms,
        nms_classes=request.nms_classes,
        input=request.input,
        strides=card.strides if request.form == "raw" else (),
        score_threshold=request.score_threshold,
        iou_threshold=request.iou_threshold,
        max_detections=request.max_detections,
        shrink=card.shrink,
    )
    card = replace(card, image_size=size)
    decoded = DecodedNetwork(network, strides=card.strides, image_size=size).eval()
    return TorchNetwork(card, network, decoded, interface, floats)


def _set_grid(network: QuantizedModel, request: BundleRequest, dialect: str, floats: frozenset[str]) -> str:
    """Choose the grid of a file; returns its name."""
    grid = choose_grid_(network, dialect, floats, nms=request.nms, dynamic_batch=request.open_batch)
    if missing := uncalibrated(network):
        raise UserError(
            f"{request.weights} has no ranges for {len(missing)} tensors that dialect {dialect} quantizes, such as "
            f"{missing[0]}: choose another --target, or calibrate with 'dvc repro ptq-calib'"
        )
    return grid


def write_file(
    source: TorchNetwork, planned: PlannedFile, request: BundleRequest, path: Path, images: Sequence[np.ndarray]
) -> tuple[Export, Row]:
    """Write one ONNX file and compare it with torch, by exact arithmetic.

    Args:
        images: float32 [1, 3, H, W] in 0..1, on which it is compared.

    Returns: the written file and its row of differences, see `export.check.check_file`.

    Raises:
        UserError: the runtime cannot take the file, or it differs from torch by more than the request allows.
    """
    written = write_traced(
        _traced(source, planned, request),
        path,
        dialect=planned.dialect,
        fp16=planned.fp16,
        interface=source.interface,
        names=source.card.names,
        simplify=request.simplify,
    )
    if planned.float_weights:
        _unfold(path)
    _refuse_unfit(path, planned, request)
    rounds = isinstance(source.network, QuantizedModel) and planned.dialect != "cache"
    exact = source.run(images, quantized=False)
    row = check_file(written, images, source.run(images) if rounds else exact, exact if rounds else None, request.allow)
    if not row["ok"]:
        raise UserError(
            f"{complaint(planned.name, row)}; nothing was written. Raise export.tolerance or export.quant_tolerance "
            "if that is acceptable"
        )
    return written, row


def _traced(source: TorchNetwork, planned: PlannedFile, request: BundleRequest) -> onnx.ModelProto:
    """The network as ONNX, on the grid of the file, on which it is left."""
    raw, network, grid = request.form == "raw", source.network, "float"
    if isinstance(network, QuantizedModel):
        grid = _set_grid(network, request, planned.dialect, source.floats)
    model = to_onnx(
        network if raw else source.decoded,
        input_shape=(1 if request.open_batch else request.batch, 3, *source.card.image_size),
        dynamic_batch=request.open_batch,
        opset=planned.opset,
        outputs=RAW_OUTPUTS if raw else OUTPUTS,
    )
    if grid == CACHE_GRID and isinstance(network, QuantizedModel):
        note_quantized(model, network, source.floats)
    return model


def _unfold(path: Path) -> None:
    import onnx

    model = onnx.load(path)
    unfold_weights(model)
    onnx.checker.check_model(model)
    save_onnx(model, path)


def _refuse_unfit(path: Path, planned: PlannedFile, request: BundleRequest) -> None:
    import onnx

    model = onnx.load(path)
    for version in planned.versions or (None,):
        try:
            check_combination(model, request.target, version=version)
        except ValueError as error:
            named = f"{request.target} {version}" if version else request.target
            raise UserError(f"{planned.name} for {named}: {error}") from None
