"""The whole network: numbers from a ModelSpec become parts, parts become a Detector."""

from __future__ import annotations

from torch import Tensor, nn

from yolov6core.models.backbone import EfficientRep
from yolov6core.models.head import DecoupledHead
from yolov6core.models.neck import RepPAN
from yolov6core.models.rep_blocks import BLOCKS
from yolov6core.models.variants import ModelSpec


class Detector(nn.Module):
    """Backbone, neck and head in a row."""

    def __init__(self, *, backbone: nn.Module, neck: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.head = head

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images [B, 3, H, W] RGB in 0..1, sides multiples of 32, to class logits [B, A, C] and distances [B, A, 4]."""
        return self.head(self.neck(self.backbone(images)))


def build_detector(spec: ModelSpec, *, num_classes: int, block: str = "repopt") -> Detector:
    """Build a network with fresh weights.

    Args:
        spec: size, see `variants.VARIANTS`.
        num_classes: C, at least 1.
        block: form of the 3x3 blocks: `repopt` (one convolution), `scaled` (linear branches) or `repvgg`.

    Raises:
        ValueError: unknown block form, or no classes.
    """
    if block not in BLOCKS:
        raise ValueError(f"block form {block!r} is unknown; choose one of {', '.join(BLOCKS)}")
    if num_classes < 1:
        raise ValueError(f"num_classes is {num_classes}; a detector needs at least one class")
    backbone_channels = [spec.channels(count) for count in spec.backbone_channels]
    neck_channels = [spec.channels(count) for count in spec.neck_channels]
    outputs = (neck_channels[1], neck_channels[3], neck_channels[5])
    return Detector(
        backbone=EfficientRep(
            block=BLOCKS[block],
            channels=backbone_channels,
            repeats=[spec.repeats(count) for count in spec.backbone_repeats],
        ),
        neck=RepPAN(
            block=BLOCKS[block],
            inputs=backbone_channels[2:],
            channels=neck_channels,
            repeats=[spec.repeats(count) for count in spec.neck_repeats],
        ),
        head=DecoupledHead(inputs=outputs, num_classes=num_classes, reg_max=spec.reg_max),
    )
