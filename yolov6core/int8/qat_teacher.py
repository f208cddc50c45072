"""The float network that teaches in quantization-aware training, if it is another one than the student came from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from yolov6core.base.errors import UserError
from yolov6core.models.card import NetworkCard
from yolov6core.tasks.networks import load_float


def load_qat_teacher(
    path: Path, student: nn.Module, card: NetworkCard, *, features: bool, where: str = "qat.teacher", device: str
) -> nn.Module:
    """Read a float checkpoint, folded, and check that it can teach the student.

    A larger teacher fits if classes and strides are the same. Where it predicts distance bins and the student does not,
    the student learns their means (see `QatTask`).

    Args:
        path: written by a float training, or by `import-checkpoint`.
        student, card: the quantized network and its card.
        features: whether maps at the head's entrance are compared; their channels must be the same then.
        where: the parameter that named the file, for messages.

    Raises:
        UserError: the file is missing, holds no float network, or does not fit the student.
    """
    try:
        teacher, taught = load_float(path, device=device)
    except UserError as error:
        raise UserError(f"{where}: {error}. An official .pt becomes one by 'import-checkpoint'") from None
    readings: dict[str, Callable[[NetworkCard], Any]] = {
        "classes": lambda about: list(about.names),
        "strides": lambda about: list(about.strides),
    }
    if card.spec.reg_max:
        readings["distance bins"] = lambda about: about.spec.reg_max
    for what, of in readings.items():
        if of(taught) != of(card):
            raise UserError(
                f"{where}: {what} of {path} ({taught.variant}) are {of(taught)}, those of the network to be trained "
                f"({card.variant}) {of(card)}; they have to be the same: give another teacher, or null"
            )
    channels = _map_channels(teacher, card), _map_channels(student, card)
    if features and channels[0] != channels[1]:
        raise UserError(
            f"{where}: the maps at the head of {path} ({taught.variant}) have {channels[0]} channels, those of the "
            f"network to be trained ({card.variant}) {channels[1]}; set qat.distill_features to 0, or give a teacher "
            "of the same width"
        )
    return teacher


def _map_channels(network: nn.Module, card: NetworkCard) -> list[int]:
    """Channels of the maps at the head's entrance, which its prediction layers have as well."""
    layers = [network.get_submodule(f"head.cls_preds.{level}") for level in range(len(card.strides))]
    return [layer.in_channels for layer in layers if isinstance(layer, nn.Conv2d)]
