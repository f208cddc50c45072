"""The whole network: numbers from a ModelSpec become parts, parts become a Detector."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from torch import Tensor, nn

from yolov6core.models.backbone import EfficientRep
from yolov6core.models.blocks import CSPSPPF, SPPF, ConvBNAct
from yolov6core.models.head import AnchorHead, DecoupledHead, DistributionHead
from yolov6core.models.lite import CoarserLevel, DepthwisePair, LiteCSP, Pointwise, Unit, lite_stage
from yolov6core.models.neck import BiFusion, ConcatFusion, RepPAN
from yolov6core.models.rep_blocks import BLOCKS, activation_of
from yolov6core.models.stage_blocks import Block, CSPStage, MBLAStage, repeat_block
from yolov6core.models.variants import ModelSpec

AUX_HEADS = ("none", "anchors", "distribution")
"""Additional predictions of the head in training: none, anchor-based boxes, distributions of distances."""


class TrainingOutput(NamedTuple):
    """All outputs that a loss can use; the first two are the result of `forward`."""

    cls_logits: Tensor
    distances: Tensor
    aux: tuple[Tensor, Tensor] | Tensor | None
    """Output of the auxiliary head."""
    features: tuple[Tensor, ...]
    """Maps [B, C_l, H_l, W_l] after the head's stems, for distillation."""


class Detector(nn.Module):
    """Backbone, neck and head in a row."""

    def __init__(self, *, backbone: nn.Module, neck: nn.Module, head: DecoupledHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.head = head

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images [B, 3, H, W] RGB in 0..1, with sides that are multiples of the largest stride, to raw output.

        Class logits [B, A, C] and distances [B, A, 4] (see `DecoupledHead`).
        """
        return self.head(self.neck(self.backbone(images)))

    def training_output(self, images: Tensor) -> TrainingOutput:
        """As `forward`, with the output of the auxiliary head and the maps for distillation."""
        features = self.head.features(self.neck(self.backbone(images)))
        aux = None if self.head.aux_head is None else self.head.aux_head(features)
        return TrainingOutput(*self.head.predict(features), aux, features.stem)


def build_detector(spec: ModelSpec, *, num_classes: int, block: str | None = None, aux_head: str = "none") -> Detector:
    """Build a network with fresh weights.

    Args:
        spec: see `variants.VARIANTS`.
        num_classes: C, at least 1.
        block: form of the 3x3 blocks, one of `rep_blocks.BLOCKS`; None: that of the published recipe.
        aux_head: additional prediction of the head in training, one of `AUX_HEADS`.

    Raises:
        ValueError: unknown block form or auxiliary head, no classes, or a combination that does not exist.
    """
    block = block or spec.block
    if block not in BLOCKS:
        raise ValueError(f"block form {block!r} is unknown; choose one of {', '.join(BLOCKS)}")
    if aux_head not in AUX_HEADS:
        raise ValueError(f"aux_head {aux_head!r} is unknown; choose one of {', '.join(AUX_HEADS)}")
    if num_classes < 1:
        raise ValueError(f"num_classes is {num_classes}; a detector needs at least one class")
    if spec.stage == "lite":
        if block != spec.block:
            raise ValueError(f"block form is {block!r}; the Lite networks have no other than {spec.block}")
        return Detector(backbone=_lite_backbone(spec), neck=_lite_neck(spec), head=_head(spec, num_classes, aux_head))
    parts = _Parts(spec, block)
    return Detector(backbone=parts.backbone(), neck=parts.neck(), head=_head(spec, num_classes, aux_head))


class _Parts:
    """Backbone and neck of all networks except Lite."""

    def __init__(self, spec: ModelSpec, block: str) -> None:
        self.spec = spec
        self.block = BLOCKS[block]
        self.act = activation_of(block)
        self.stage = _stage_maker(spec, self.block, self.act)

    def backbone(self) -> EfficientRep:
        spec = self.spec
        channels = [spec.channels(count) for count in spec.backbone_channels]
        pool = {"sppf": SPPF, "csp_sppf": CSPSPPF}[spec.pool]
        return EfficientRep(
            stem=self.block(3, channels[0], stride=2),
            stages=[
                nn.Sequential(self.block(before, after, stride=2), self.stage(after, after, spec.repeats(count)))
                for before, after, count in zip(channels[:-1], channels[1:], spec.backbone_repeats, strict=True)
            ],
            pool=pool(channels[-1], channels[-1], act=self.act),
            maps=len(spec.strides) + (spec.fusion == "bifusion"),
        )

    def neck(self) -> RepPAN:
        spec = self.spec
        maps = [spec.channels(count) for count in spec.backbone_channels]
        down = [spec.channels(count) for count in spec.top_down]
        up = [spec.channels(count) for count in spec.bottom_up]
        repeats = spec.repeats(spec.neck_repeats)
        fuse, fused = [], []
        for step, channels in enumerate(down):
            shallower = maps[: -1 - step]
            if spec.fusion == "bifusion":
                fuse.append(BiFusion(shallower=shallower[-2:], channels=channels))
                fused.append(channels)
            else:
                fuse.append(ConcatFusion(upsample=nn.ConvTranspose2d(channels, channels, 2, stride=2)))
                fused.append(channels + shallower[-1])
        before = [down[-1], *up[:-1]]  # channels that each downsampling reads and keeps
        laterals = down[::-1]
        return RepPAN(
            reduce=[ConvBNAct(c, out, kernel=1) for c, out in zip([maps[-1], *down[:-1]], down, strict=True)],
            fuse=fuse,
            top_down=[self.stage(c, out, repeats) for c, out in zip(fused, down, strict=True)],
            downsample=[ConvBNAct(c, c, stride=2) for c in before],
            bottom_up=[
                self.stage(c + lateral, out, repeats) for c, lateral, out in zip(before, laterals, up, strict=True)
            ],
        )


def _stage_maker(spec: ModelSpec, block: Block, act: type[nn.Module]) -> Callable[[int, int, int], nn.Module]:
    if spec.stage == "rep":
        return partial(repeat_block, block)
    stage = {"csp": CSPStage, "mbla": MBLAStage}[spec.stage]
    return partial(stage, block, ratio=spec.csp_ratio, act=act)


def _lite_backbone(spec: ModelSpec) -> EfficientRep:
    stem, *counts = spec.backbone_channels
    channels = [stem, *(spec.channels(count) for count in counts)]
    return EfficientRep(
        stem=Unit(3, stem, stride=2),
        stages=[
            lite_stage(before, after, count)
            for before, after, count in zip(channels[:-1], channels[1:], spec.backbone_repeats, strict=True)
        ],
        pool=nn.Identity(),
        maps=3,
    )


def _lite_neck(spec: ModelSpec) -> RepPAN:
    maps = [spec.channels(count) for count in spec.backbone_channels]
    channels = spec.top_down[0]
    stages = len(spec.top_down)
    return RepPAN(
        reduce=[Pointwise(maps[-1], channels), *(nn.Identity() for _ in range(stages - 1))],
        fuse=[
            ConcatFusion(upsample=nn.Upsample(scale_factor=2.0), lateral=Pointwise(maps[-2 - step], channels))
            for step in range(stages)
        ],
        top_down=[LiteCSP(2 * channels, channels) for _ in range(stages)],
        downsample=[DepthwisePair(channels, channels, stride=2) for _ in range(stages)],
        bottom_up=[LiteCSP(2 * channels, channels) for _ in range(stages)],
        coarser=CoarserLevel(channels),
    )


def _head(spec: ModelSpec, num_classes: int, aux_head: str) -> DecoupledHead:
    if spec.stage == "lite":
        inputs = [spec.top_down[0]] * len(spec.strides)
        stem = unit = DepthwisePair
    else:
        inputs = [spec.channels(count) for count in (spec.top_down[-1], *spec.bottom_up)]
        stem, unit = partial(ConvBNAct, kernel=1, act=nn.SiLU), partial(ConvBNAct, act=nn.SiLU)
    auxiliary = None
    if aux_head == "anchors":
        auxiliary = AnchorHead(inputs=inputs, num_classes=num_classes, anchors=spec.anchors, strides=spec.strides)
    elif aux_head == "distribution":
        if spec.reg_max:
            raise ValueError("aux_head 'distribution' is for networks that predict plain distances; this one has bins")
        auxiliary = DistributionHead(inputs=inputs)
    return DecoupledHead(
        inputs=inputs, num_classes=num_classes, stem=stem, unit=unit, reg_max=spec.reg_max, aux_head=auxiliary
    )
