"""RepPAN: top-down, then bottom-up fusion of the pyramid levels (2209.02976, section 2.1; 2301.05586, section 2.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from yolov6core.models.blocks import ConvBNAct


class ConcatFusion(nn.Module):
    """The upsampled deeper map, concatenated with the next shallower one."""

    def __init__(self, *, upsample: nn.Module, lateral: nn.Module | None = None) -> None:
        super().__init__()
        self.upsample = upsample
        self.lateral = lateral

    def forward(self, x: Tensor, shallower: tuple[Tensor, ...]) -> Tensor:
        """`x` [B, C, H, W] and all maps shallower than it, to [B, C + C', 2 H, 2 W]."""
        beside = shallower[-1] if self.lateral is None else self.lateral(shallower[-1])
        return torch.cat((self.upsample(x), beside), dim=1)


class BiFusion(nn.Module):
    """BiC: the upsampled deeper map, the next shallower one, and the second next, halved (2301.05586, figure 2b)."""

    def __init__(self, *, shallower: Sequence[int], channels: int) -> None:
        """shallower: channels of the two shallower maps, shallow to deep; channels: of `x` and of the result."""
        super().__init__()
        self.upsample = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.same = ConvBNAct(shallower[1], channels, kernel=1)
        self.finer = nn.Sequential(ConvBNAct(shallower[0], channels, kernel=1), ConvBNAct(channels, channels, stride=2))
        self.fuse = ConvBNAct(3 * channels, channels, kernel=1)

    def forward(self, x: Tensor, shallower: tuple[Tensor, ...]) -> Tensor:
        """`x` [B, C, H, W] and all maps shallower than it, to [B, C, 2 H, 2 W]."""
        return self.fuse(torch.cat((self.upsample(x), self.same(shallower[-1]), self.finer(shallower[-2])), dim=1))


class RepPAN(nn.Module):
    """A top-down path and a bottom-up path with equally many fusions."""

    def __init__(
        self,
        *,
        reduce: Sequence[nn.Module],
        fuse: Sequence[nn.Module],
        top_down: Sequence[nn.Module],
        downsample: Sequence[nn.Module],
        bottom_up: Sequence[nn.Module],
        coarser: nn.Module | None = None,
    ) -> None:
        """All in order of execution. `coarser` makes one more level from the deepest maps before and after the neck."""
        super().__init__()
        self.reduce = nn.ModuleList(reduce)
        self.fuse = nn.ModuleList(fuse)
        self.top_down = nn.ModuleList(top_down)
        self.downsample = nn.ModuleList(downsample)
        self.bottom_up = nn.ModuleList(bottom_up)
        self.coarser = coarser

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Maps of the backbone, shallow to deep, to one fused map per pyramid level."""
        *shallower, x = maps
        reduced = []
        for reduce, fuse, stage in zip(self.reduce, self.fuse, self.top_down, strict=True):
            reduced.append(reduce(x))
            x = stage(fuse(reduced[-1], tuple(shallower)))
            shallower.pop()
        fused = [x]
        for downsample, stage, lateral in zip(self.downsample, self.bottom_up, reversed(reduced), strict=True):
            fused.append(stage(torch.cat((downsample(fused[-1]), lateral), dim=1)))
        if self.coarser is not None:
            fused.append(self.coarser(reduced[0], fused[-1]))
        return tuple(fused)
