"""Weights of any kind as an engine that torch runs: checkpoints of this project, float or quantized, and others'."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import nn

from yolov6core.base.checkpoint import is_own
from yolov6core.engines.torch_engine import TorchEngine
from yolov6core.int8.quantized_networks import load_quantized
from yolov6core.models.blocks import deploy_
from yolov6core.models.card import NetworkCard
from yolov6core.models.decoded import DecodedNetwork
from yolov6core.models.detector import Detector
from yolov6core.models.variants import VARIANTS
from yolov6core.pretrained.identify import identify
from yolov6core.pretrained.weights import empty_network, fitting_variants, load_weights_, read_weights
from yolov6core.quant.insert import QuantizedModel
from yolov6core.quant.sensitivity import quantized_names
from yolov6core.tasks.networks import load_float, placed, read_network

WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth")


def open_weights(
    path: Path, *, variant: str, image_size: tuple[int, int], shrink: int, max_batch: int, device: str
) -> TorchEngine:
    """Weights as an engine: float ones with folded batch norm, quantized ones with fake quantizers.

    Args:
        path: a checkpoint of this project, a `.pt` of the official trainer, or `.safetensors` of its tensors.
        variant: taken where the tensors of a file without a card fit several networks.
        image_size, shrink: (height, width) and grey frame, where the file does not say them.
        max_batch: largest batch that is asked for.

    Raises:
        UserError: the file is missing, or holds no network of the table.
    """
    if _is_own(path):
        card = read_network(path)[1]
        load = load_float if card.quantization is None else load_quantized
        network: nn.Module = load(path, device=device)[0]
    else:
        network, card = _foreign(path, variant, image_size, shrink)
    return TorchEngine(
        DecodedNetwork(placed(network, device), strides=card.strides),
        card.image_size,
        names=card.names,
        shrink=card.shrink,
        simulated_int8=len(quantized_names(network)) if isinstance(network, QuantizedModel) else 0,
        max_batch=max_batch,
    )


def _is_own(path: Path) -> bool:
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    try:
        with safe_open(path, framework="pt") as handle:
            return is_own(handle.metadata())
    except (SafetensorError, OSError):
        return False  # the reader of foreign files says what is wrong


def _foreign(path: Path, variant: str, image_size: tuple[int, int], shrink: int) -> tuple[Detector, NetworkCard]:
    """Weights of another toolkit as a deployed network. Classes without names have none here."""
    given = read_weights(path)
    chosen = next((found for found in fitting_variants(given) if found[0] == variant), None)
    name, block = chosen or identify(given)
    network = empty_network(VARIANTS[name], block, given)
    load_weights_(network, given, block=block, where="eval")
    deploy_(network.eval())
    return network, NetworkCard(VARIANTS[name], name, block, given.names or (), image_size, shrink=shrink)
