"""EfficientRep: a straight column of stages (YOLOv6, 2209.02976, section 2.1)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class EfficientRep(nn.Module):
    """Stem and stages, each of which halves the resolution; a pooling pyramid at the end."""

    def __init__(self, *, stem: nn.Module, stages: Sequence[nn.Module], pool: nn.Module, maps: int) -> None:
        """maps: number of last stages whose results the neck reads."""
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.pool = pool
        self.maps = maps

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images [B, 3, H, W] to maps [B, C_i, H / s_i, W / s_i], shallow to deep, such as strides 8, 16, 32."""
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return (*maps[-self.maps : -1], self.pool(maps[-1]))
