"""The table of networks. Sizes of a family differ in numbers, families also in their parts."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Stage = Literal["rep", "csp", "mbla", "lite"]
"""The unit that stages repeat: 3x3 blocks, a CSP stack of residual pairs, MBLA branches, or the Lite units."""


@dataclass(frozen=True)
class ModelSpec:
    """One network: backbone, neck and anchor-free head (YOLOv6 2209.02976, YOLOv6 v3 2301.05586)."""

    depth: float = 1.0
    """Multiplier of the repeat counts, rounded, never below one block."""
    width: float = 1.0
    """Multiplier of the channel counts."""
    block: str = "repvgg"
    """Form of the 3x3 blocks in the published recipe, see `rep_blocks.BLOCKS`."""
    stage: Stage = "rep"
    """The unit that stages repeat."""
    csp_ratio: float = 0.5
    """Hidden channels of a CSP or MBLA stage, as a share of its output channels."""
    fusion: Literal["concat", "bifusion"] = "bifusion"
    """Maps that the top-down path merges: two, or three with one more shallower map (2301.05586, 2.1)."""
    pool: Literal["sppf", "csp_sppf"] = "sppf"
    """Pooling pyramid at the end of the backbone."""
    backbone_channels: tuple[int, ...] = (64, 128, 256, 512, 1024)
    """Stem and stages, before `width`."""
    backbone_repeats: tuple[int, ...] = (6, 12, 18, 6)
    """Blocks of each stage, before `depth`."""
    top_down: tuple[int, ...] = (256, 128)
    """Channels of the neck's top-down path, before `width`. Lite: the same count everywhere, without `width`."""
    bottom_up: tuple[int, ...] = (256, 512)
    """Channels of the bottom-up path."""
    neck_repeats: int = 12
    """Blocks of each stage in the neck, before `depth`."""
    strides: tuple[int, ...] = (8, 16, 32)
    """Pixels per cell of each pyramid level."""
    reg_max: int = 0
    """Last bin of the distance distribution; 0: the head predicts the distances themselves."""
    iou_type: str = "giou"
    """Box loss of the published recipe."""
    anchors: tuple[tuple[int, ...], ...] = (
        (10, 13, 19, 19, 33, 23),
        (30, 61, 59, 59, 59, 119),
        (116, 90, 185, 185, 373, 326),
    )
    """Pixels (width, height, width, ...) per level, of the anchor-based branch of anchor-aided training."""

    def channels(self, count: int) -> int:
        """Channels after the width multiplier: rounded up to a multiple of 8.

        Lite rounds to the nearest multiple of 16 that is not below 0.9 of the product (MobileNetV2's rule).
        """
        scaled = count * self.width
        if self.stage != "lite":
            return math.ceil(scaled / 8) * 8
        nearest = max(16, int(scaled + 8) // 16 * 16)
        return nearest + 16 if nearest < 0.9 * scaled else nearest

    def repeats(self, count: int) -> int:
        """Blocks after the depth multiplier."""
        return max(round(count * self.depth), 1)

    def to_meta(self) -> dict[str, Any]:
        """Plain JSON values for a checkpoint; `from_meta` reads them back."""
        return {key: _lists(value) for key, value in asdict(self).items()}

    @classmethod
    def from_meta(cls, meta: dict[str, Any]) -> ModelSpec:
        """Inverse of `to_meta`."""
        return cls(**{key: _tuples(value) for key, value in meta.items()})


def _lists(value: Any) -> Any:
    return [_lists(item) for item in value] if isinstance(value, tuple) else value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


V2 = ModelSpec(depth=0.33, block="repopt", fusion="concat", iou_type="siou")
V3 = ModelSpec(depth=0.33, pool="csp_sppf")
CSP = ModelSpec(stage="csp", reg_max=16)
P6 = {
    "backbone_channels": (64, 128, 256, 512, 768, 1024),
    "backbone_repeats": (6, 12, 18, 6, 6),
    "top_down": (512, 256, 128),
    "bottom_up": (256, 512, 1024),
    "strides": (8, 16, 32, 64),
    "anchors": (),
}
BASE = ModelSpec(block="conv_relu", stage="csp", reg_max=16)
MBLA = replace(CSP, block="conv_silu", stage="mbla", depth=0.5, backbone_repeats=(4, 8, 8, 4), neck_repeats=8)
LITE = ModelSpec(
    block="conv_hardswish",
    stage="lite",
    fusion="concat",
    backbone_channels=(24, 32, 64, 128, 256),
    backbone_repeats=(1, 3, 7, 3),
    top_down=(96, 96),
    bottom_up=(96, 96),
    neck_repeats=1,
    strides=(8, 16, 32, 64),
    iou_type="siou",
    anchors=(),
)

VARIANTS: dict[str, ModelSpec] = {
    # v3 and v4 (2301.05586)
    "yolov6n": replace(V3, width=0.25, iou_type="siou"),
    "yolov6s": replace(V3, width=0.5),
    "yolov6m": replace(CSP, depth=0.6, width=0.75, csp_ratio=2 / 3),
    "yolov6l": replace(CSP, block="conv_silu"),
    # four levels, for 1280 pixels
    "yolov6n6": replace(V3, width=0.25, iou_type="siou", **P6),
    "yolov6s6": replace(V3, width=0.5, **P6),
    "yolov6m6": replace(CSP, depth=0.6, width=0.75, csp_ratio=2 / 3, **P6),
    "yolov6l6": replace(CSP, block="conv_silu", **P6),
    # v2 (2209.02976): the nets that RepOptimizer and the published INT8 recipe are for
    "yolov6n_v2": replace(V2, width=0.25),
    "yolov6t_v2": replace(V2, width=0.375),
    "yolov6s_v2": replace(V2, width=0.5, iou_type="giou"),
    # plain convolutions only
    "yolov6n_base": replace(BASE, stage="rep", pool="csp_sppf", depth=0.33, width=0.25),
    "yolov6s_base": replace(BASE, pool="csp_sppf", depth=0.7, width=0.5),
    "yolov6m_base": replace(BASE, depth=0.8, width=0.75),
    "yolov6l_base": BASE,
    # QARepVGG blocks (2212.01593), whose fused kernels keep a narrow range
    "yolov6n_qa": replace(V3, block="qarepvggv2", width=0.25, iou_type="siou"),
    "yolov6s_qa": replace(V3, block="qarepvggv2", width=0.5),
    "yolov6m_qa": replace(CSP, block="qarepvggv2", depth=0.6, width=0.75, csp_ratio=2 / 3),
    # multi-branch stages
    "yolov6s_mbla": replace(MBLA, width=0.5),
    "yolov6m_mbla": replace(MBLA, width=0.75),
    "yolov6l_mbla": MBLA,
    "yolov6x_mbla": replace(MBLA, depth=1.0),
    # depthwise, for phones, at 320 pixels
    "yolov6_lite_s": replace(LITE, width=0.7),
    "yolov6_lite_m": replace(LITE, width=1.1),
    "yolov6_lite_l": replace(LITE, width=1.5),
    # Not published: small enough that a test builds, trains and quantizes it in a second.
    "test": replace(V2, depth=0.17, width=0.0625),
}


def variant(name: str) -> ModelSpec:
    """Spec of a network by its name.

    Raises:
        ValueError: unknown name; the message lists the known ones.
    """
    if name not in VARIANTS:
        raise ValueError(f"model variant {name!r} is unknown; choose one of {', '.join(VARIANTS)}")
    return VARIANTS[name]
