"""Networks built from cards, and float checkpoints read and written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from yolov6core.base.checkpoint import load_checkpoint, save_checkpoint
from yolov6core.base.errors import UserError
from yolov6core.models.blocks import deploy_
from yolov6core.models.card import CardError, NetworkCard
from yolov6core.models.detector import Detector, build_detector
from yolov6core.models.stage_blocks import ShortcutScale

Network = TypeVar("Network", bound=nn.Module)


def fresh_network(card: NetworkCard) -> Detector:
    """The network of a card with fresh weights: in training form, or deployed and in evaluation mode if stored so.

    Raises:
        UserError: there is no such network.
    """
    try:
        network = build_detector(card.spec, num_classes=card.num_classes, block=card.block, aux_head=card.aux_head)
    except ValueError as error:
        raise UserError(f"model.variant {card.variant}: {error}") from None
    if card.deployed:
        deploy_(network.eval())
    return network


def unfilled_network(card: NetworkCard, tensors: Mapping[str, Tensor], *, deployed: bool) -> Detector:
    """The network of a card on torch's `meta` device, in evaluation mode: it takes no memory and draws no random number
    until the tensors of a file are assigned.

    Args:
        tensors: of the file. Deployed networks have a shortcut's factor only where it is not 1.
        deployed: whether the file holds the deployed form.
    """
    with torch.device("meta"):
        network = fresh_network(replace(card, deployed=False)).eval()
    if deployed:
        for name, module in network.named_modules():
            if isinstance(module, ShortcutScale) and f"{name}.weight" in tensors:
                module.weight = nn.Parameter(tensors[f"{name}.weight"])
        deploy_(network)
    return network


def stored_network(tensors: Mapping[str, Tensor], card: NetworkCard, *, path: Path) -> Detector:
    """The network of a float checkpoint in the form it was stored in, in evaluation mode.

    Raises:
        UserError: the tensors of `path` are not those of the network that its card describes.
    """
    network = unfilled_network(card, tensors, deployed=card.deployed)
    load_tensors(network, tensors, path=path, assign=True)
    return network


def load_float(path: Path, *, device: str = "cpu") -> tuple[Detector, NetworkCard]:
    """Read a float checkpoint as a deployed network: batch norm folded, single convolutions, evaluation mode.

    Returns: the network (`forward`: images [B, 3, H, W] in 0..1 to raw outputs), and its card.

    Raises:
        UserError: the file is missing, not a checkpoint, or does not fit the network that it describes.
    """
    tensors, card = read_network(path)
    if card.quantization is not None:
        raise UserError(f"{path} holds a quantized network; the float one that it came from is needed")
    network = stored_network(tensors, card, path=path)
    deploy_(network)
    return placed(network, device), card


def save_float(path: Path, network: nn.Module, card: NetworkCard) -> None:
    """Write a float checkpoint: tensors as they are, and the card. Raises OSError if it cannot be written."""
    save_checkpoint(path, network.state_dict(), card.to_meta())


def read_network(path: Path) -> tuple[dict[str, Tensor], NetworkCard]:
    """Tensors and card of a checkpoint, float or quantized.

    Raises:
        UserError: the file is missing, or it holds no network.
    """
    if not path.is_file():
        raise UserError(
            f"{path} does not exist; give a weights.safetensors of a training, or run the stage that makes it"
        )
    try:
        tensors, meta = load_checkpoint(path)
    except ValueError as error:
        raise UserError(str(error)) from None
    try:
        card = NetworkCard.from_meta(meta)
    except CardError as error:
        raise UserError(f"{path}: {error}; give a weights.safetensors of this project") from None
    return tensors, card


def load_tensors(network: nn.Module, tensors: Mapping[str, Tensor], *, path: Path, assign: bool = False) -> None:
    """Fill a network with the tensors of a file.

    Args:
        assign: the network takes the tensors themselves, cast to its own dtypes, instead of copying their values.

    Raises:
        UserError: they do not fit.
    """
    if assign:
        own = network.state_dict()
        tensors = {name: tensor.to(own[name].dtype) if name in own else tensor for name, tensor in tensors.items()}
    try:
        network.load_state_dict(tensors, assign=assign)
    except RuntimeError as error:
        raise UserError(f"{path} does not fit the network it describes; make it again ({error})") from None


def placed(network: Network, device: str) -> Network:
    """The network on a device, channels last: the layout of the fastest convolutions."""
    return network.to(device=torch.device(device), memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
