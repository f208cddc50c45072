"""EfficientRep: a straight column of 3x3 blocks (YOLOv6, 2209.02976, section 2.1)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from yolov6core.models.blocks import SPPF, repeat_block


class EfficientRep(nn.Module):
    """Stem and four stages, each halving the resolution; the last one ends in SPPF."""

    def __init__(self, *, block: type[nn.Module], channels: Sequence[int], repeats: Sequence[int]) -> None:
        """channels: stem and stages (5); repeats: blocks of each stage after its strided block (4)."""
        super().__init__()
        self.stem = block(3, channels[0], stride=2)
        self.stages = nn.ModuleList(
            nn.Sequential(block(c_in, c_out, stride=2), repeat_block(block, c_out, c_out, count))
            for c_in, c_out, count in zip(channels[:-1], channels[1:], repeats, strict=True)
        )
        self.pool = SPPF(channels[-1], channels[-1])

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images [B, 3, H, W] to the maps of strides 8, 16, 32: [B, C_i, H / s_i, W / s_i]."""
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return (*maps[1:-1], self.pool(maps[-1]))
