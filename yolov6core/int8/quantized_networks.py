"""Quantized checkpoints (PTQ, partial, QAT) read and written."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from yolov6core.base.checkpoint import save_checkpoint
from yolov6core.base.errors import UserError
from yolov6core.models.card import NetworkCard, QuantizationCard
from yolov6core.quant.equalize import scaled_inputs, with_input_scales
from yolov6core.quant.fake_quant import QuantConv2d
from yolov6core.quant.insert import (
    QuantizedModel,
    convolution_names,
    insert_quantizers,
    quantizable_names,
    quantized_convolutions,
    set_float_layers_,
    state_of,
)
from yolov6core.tasks.networks import load_tensors, placed, read_network, unfilled_network


def load_quantized(
    path: Path, *, dialect: str | None = None, device: str = "cpu"
) -> tuple[QuantizedModel, NetworkCard]:
    """Read a quantized checkpoint as a GraphModule with calibrated ranges, in evaluation mode.

    Args:
        path: written by `save_quantized`.
        dialect: `trt`, `openvino` or `ort`; None for the one that it was calibrated in. `set_dialect_` switches later.

    Raises:
        UserError: the file is missing, holds a float network, or does not fit the network that it describes.
    """
    tensors, card = read_network(path)
    found = card.quantization
    if found is None:
        raise UserError(f"{path} holds a float network; a quantized one is made by 'dvc repro ptq-calib'")
    # Memory without values: quantizers have ranges of their own, which must not be on `meta`.
    network = unfilled_network(card, tensors, deployed=True).to_empty(device="cpu")
    network = with_input_scales(network, scaled_inputs(tensors))
    model = insert_quantizers(network, dialect_name=dialect or found.dialect, cpu=found.cpu)
    load_tensors(model, tensors, path=path)
    set_float_layers_(model, found.float_layers)
    for convolution in quantized_convolutions(model):
        convolution.frozen = found.weight_ranges == "frozen"
    return placed(model.eval(), device), card


def save_quantized(path: Path, model: QuantizedModel, card: NetworkCard, *, method: str) -> None:
    """Write a quantized model: float32 weights, ranges, and which layers are float.

    Args:
        card: of the network that it came from, float or quantized.
        method: how the activation ranges came about, such as `mse` or `percentile_99.99`.
    """
    first: QuantConv2d = quantized_convolutions(model)[0]
    state = state_of(model)
    quantization = QuantizationCard(
        method=method,
        dialect=state.dialect.name,
        cpu=state.cpu,
        float_layers=tuple(sorted(state.float_layers)),
        weight_ranges="frozen" if first.frozen else "follow",
    )
    save_checkpoint(path, model.state_dict(), card.quantized(quantization).to_meta())


def matching_layers(model: QuantizedModel, patterns: Iterable[str], *, where: str) -> list[str]:
    """Convolutions that fit any shell pattern, in order of execution.

    Raises:
        UserError: a pattern fits none, or all together leave nothing to quantize; `where` names the parameter.
    """
    names, patterns = convolution_names(model), list(patterns)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(f"{where}: {pattern!r} fits no convolution; the network has {', '.join(names)}")
    found = [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
    if set(found) >= set(quantizable_names(model)):
        raise UserError(
            f"{where}: {patterns} leave every convolution float, so nothing is quantized; name fewer layers"
        )
    return found
