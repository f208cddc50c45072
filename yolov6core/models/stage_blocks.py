"""The stages of backbone and neck: a run of blocks, a CSP stack, or MBLA branches."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from yolov6core.models.blocks import ConvBNAct

Block = Callable[..., nn.Module]
"""`block(in_channels, out_channels, stride=1)`, one of `rep_blocks.BLOCKS`."""


def repeat_block(block: Block, in_channels: int, out_channels: int, count: int) -> nn.Sequential:
    """`count` blocks in a row; the first one changes the number of channels."""
    return nn.Sequential(
        block(in_channels, out_channels), *(block(out_channels, out_channels) for _ in range(count - 1))
    )


class ShortcutScale(nn.Module):
    """The factor of a shortcut, learned from 1 on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight

    def deployed(self) -> ShortcutScale | None:
        """None if the factor is still 1 (as in all official checkpoints): an INT8 shortcut is then one addition."""
        return None if self.weight.is_meta or self.weight.item() == 1 else self


class Bottleneck(nn.Module):
    """Some 3x3 blocks of one width, with a shortcut around them."""

    def __init__(self, block: Block, channels: int, *, blocks: int) -> None:
        super().__init__()
        self.blocks = repeat_block(block, channels, channels, blocks)
        self.shortcut: ShortcutScale | None = ShortcutScale()

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x) + (x if self.shortcut is None else self.shortcut(x))


class CSPStage(nn.Module):
    """CSPStackRep (2209.02976, figure 3b): residual pairs of blocks on one half, a plain convolution on the other."""

    def __init__(
        self,
        block: Block,
        in_channels: int,
        out_channels: int,
        count: int,
        *,
        ratio: float,
        act: type[nn.Module] = nn.ReLU,
    ) -> None:
        """count: 3x3 blocks, two in each residual pair; ratio: hidden channels over `out_channels`."""
        super().__init__()
        hidden = int(out_channels * ratio)
        self.main = ConvBNAct(in_channels, hidden, kernel=1, act=act)
        self.blocks = nn.Sequential(*(Bottleneck(block, hidden, blocks=2) for _ in range(max(count // 2, 1))))
        self.bypass = ConvBNAct(in_channels, hidden, kernel=1, act=act)
        self.fuse = ConvBNAct(2 * hidden, out_channels, kernel=1, act=act)

    def forward(self, x: Tensor) -> Tensor:
        return self.fuse(torch.cat((self.blocks(self.main(x)), self.bypass(x)), dim=1))


class MBLAStage(nn.Module):
    """Multi-branch auxiliary layers (YOLOv6 4.0): branches of growing depth; the outputs of all units are kept."""

    def __init__(
        self,
        block: Block,
        in_channels: int,
        out_channels: int,
        count: int,
        *,
        ratio: float,
        act: type[nn.Module] = nn.SiLU,
    ) -> None:
        """count: twice the depth of the deepest branch; ratio: channels of a branch over `out_channels`."""
        super().__init__()
        hidden = int(out_channels * ratio)
        depths = branch_depths(count // 2)
        self.split = ConvBNAct(in_channels, len(depths) * hidden, kernel=1, act=act)
        self.branches = nn.ModuleList(
            nn.Sequential(*(Bottleneck(block, hidden, blocks=3) for _ in range(depth))) for depth in depths[1:]
        )
        self.fuse = ConvBNAct((len(depths) + sum(depths)) * hidden, out_channels, kernel=1, act=act)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.split(x).chunk(len(self.branches) + 1, dim=1)
        kept = [parts[0]]
        for index, branch in enumerate(self.branches, start=1):
            kept.append(parts[index])
            for unit in cast(nn.Sequential, branch):
                kept.append(unit(kept[-1]))
        return self.fuse(torch.cat(kept, dim=1))


def branch_depths(depth: int) -> tuple[int, ...]:
    """Units in each branch: none, the largest power of two below `depth`, and `depth` itself."""
    if depth <= 1:
        return (0, 1)
    return (0, 1 << ((depth - 1).bit_length() - 1), depth)
