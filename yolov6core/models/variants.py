"""The table of network sizes. Sizes differ in numbers only; the block form is chosen when a network is built."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class ModelSpec:
    """One size of the network: EfficientRep backbone, RepPAN neck, decoupled anchor-free head (YOLOv6, 2209.02976)."""

    depth: float
    """Multiplier of the repeat counts, rounded, never below one block."""
    width: float
    """Multiplier of the channel counts, rounded up to a multiple of 8."""
    backbone_channels: tuple[int, ...] = (64, 128, 256, 512, 1024)
    """Stem and the four stages, before `width`."""
    backbone_repeats: tuple[int, ...] = (6, 12, 18, 6)
    """Blocks of the four stages, before `depth`."""
    neck_channels: tuple[int, ...] = (256, 128, 128, 256, 256, 512)
    """Top-down 1 and 2, downsample 1, bottom-up 1, downsample 2, bottom-up 2, before `width`."""
    neck_repeats: tuple[int, ...] = (12, 12, 12, 12)
    """Blocks of top-down 1 and 2, bottom-up 1 and 2, before `depth`."""
    strides: tuple[int, ...] = (8, 16, 32)
    """Pixels per cell of each pyramid level."""
    reg_max: int = 0
    """Last bin of the distance distribution; 0: the head predicts the distances themselves."""
    iou_type: str = "siou"
    """Box loss that the published recipe of this size uses."""

    def channels(self, count: int) -> int:
        """Channels after the width multiplier."""
        return math.ceil(count * self.width / 8) * 8

    def repeats(self, count: int) -> int:
        """Blocks after the depth multiplier."""
        return max(round(count * self.depth), 1)

    def to_meta(self) -> dict[str, Any]:
        """Plain JSON values for a checkpoint; `from_meta` reads them back."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_meta(cls, meta: dict[str, Any]) -> ModelSpec:
        """Inverse of `to_meta`."""
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in meta.items()})


VARIANTS: dict[str, ModelSpec] = {
    "yolov6n": ModelSpec(depth=0.33, width=0.25),
    "yolov6t": ModelSpec(depth=0.33, width=0.375),
    "yolov6s": ModelSpec(depth=0.33, width=0.5, iou_type="giou"),
    # Not a published size: small enough that a test builds, trains and quantizes it in a second.
    "test": ModelSpec(depth=0.17, width=0.0625),
}


def variant(name: str) -> ModelSpec:
    """Look a size up.

    Raises:
        ValueError: unknown name; the message lists the known ones.
    """
    if name not in VARIANTS:
        raise ValueError(f"model variant {name!r} is unknown; choose one of {', '.join(VARIANTS)}")
    return VARIANTS[name]
