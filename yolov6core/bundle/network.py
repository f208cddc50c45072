"""The network of a bundle in torch, on the grid of its files, and the files that are written and checked from it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import nn

from yolov6core.base.errors import UserError
from yolov6core.bundle.request import BundleRequest, PlannedFile
from yolov6core.engines.compatibility import check_combination
from yolov6core.exchange.compare import Outputs
from yolov6core.exchange.interface import Interface
from yolov6core.export.check import Row, check_file, complaint
from yolov6core.export.dialects import Export, write_traced
from yolov6core.export.tracer import Tracer
from yolov6core.int8.quantized_networks import load_quantized
from yolov6core.models.card import NetworkCard
from yolov6core.models.decoded import DecodedNetwork, run_module
from yolov6core.quant.insert import QuantizedModel, quantizers_off, ready_for_export_
from yolov6core.tasks.networks import load_float


@dataclass(frozen=True)
class TorchNetwork:
    """A float or fake-quantized network.

    Attributes:
        tracer: the network, raw and decoded, and its traces.
        interface: of the files that are written from it.
    """

    card: NetworkCard
    tracer: Tracer
    interface: Interface

    @property
    def network(self) -> nn.Module:
        """With raw outputs, see `models.head`."""
        return self.tracer.network

    def run(self, images: Sequence[np.ndarray], *, quantized: bool = True) -> list[Outputs]:
        """Boxes [B, A, 4] and scores [B, A, C] of batches float32 [B, 3, H, W] in 0..1."""
        network = self.network
        with quantizers_off(network) if isinstance(network, QuantizedModel) and not quantized else nullcontext():
            return [run_module(self.tracer.decoded, image) for image in images]


def open_network(request: BundleRequest, dialect: str) -> TorchNetwork:
    """Load the network of a request, on the grid of the files' dialect.

    Raises:
        UserError: the checkpoint is missing or damaged, was not calibrated for this grid, or does not fit image_size.
        ValueError: the interface contradicts itself.
    """
    if request.kind == "float":
        network, card = load_float(request.weights)
    else:
        network, card = load_quantized(request.weights)
        ready_for_export_(network)
    files = replace(request.files, dynamic_batch=request.open_batch)
    card = replace(card, image_size=files.input_size(card.image_size, card.strides))
    decoded = DecodedNetwork(network, strides=card.strides, image_size=card.image_size).eval()
    tracer = Tracer(network, decoded, files, image_size=card.image_size, weights=request.weights)
    tracer.set_grid(dialect)
    return TorchNetwork(card, tracer, files.interface(card.strides, card.shrink))


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
        source.tracer.trace(planned.dialect, planned.opset),
        path,
        dialect=planned.dialect,
        fp16=planned.fp16,
        interface=source.interface,
        names=source.card.names,
        simplify=request.files.simplify,
    )
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


def _refuse_unfit(path: Path, planned: PlannedFile, request: BundleRequest) -> None:
    import onnx

    model = onnx.load(path)
    for version in planned.versions or (None,):
        try:
            check_combination(model, request.target, version=version)
        except ValueError as error:
            named = f"{request.target} {version}" if version else request.target
            raise UserError(f"{planned.name} for {named}: {error}") from None
