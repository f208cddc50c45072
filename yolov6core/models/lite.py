"""The units of the Lite networks: depthwise convolutions, squeeze-and-excitation, hard-swish."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from yolov6core.models.blocks import ConvBNAct

Unit = partial(ConvBNAct, act=nn.Hardswish)
Pointwise = partial(Unit, kernel=1)


def depthwise(
    channels: int, *, kernel: int = 3, stride: int = 1, bias: bool = False, act: type[nn.Module] = nn.Identity
) -> ConvBNAct:
    """A convolution of each channel alone."""
    return ConvBNAct(channels, channels, kernel=kernel, stride=stride, groups=channels, bias=bias, act=act)


class SqueezeExcite(nn.Module):
    """Weigh channels by their mean over the image (1709.01507)."""

    def __init__(self, channels: int, *, reduction: int = 4) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, channels // reduction, 1)
        self.relu = nn.ReLU(inplace=True)
        self.expand = nn.Conv2d(channels // reduction, channels, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.expand(self.relu(self.reduce(self.pool(x)))))


class DepthwisePair(nn.Sequential):
    """5x5 depthwise, then 1x1, each with batch norm and hard-swish."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__(
            depthwise(in_channels, kernel=5, stride=stride, bias=True, act=nn.Hardswish),
            Pointwise(in_channels, out_channels, bias=True),
        )


class ShuffleDown(nn.Module):
    """Halve the resolution on two paths, then join and mix them (after ShuffleNetV2, 1807.11164, figure 3d)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        half, hidden = out_channels // 2, out_channels // 4
        self.short = nn.Sequential(depthwise(in_channels, stride=2), Pointwise(in_channels, half))
        self.long = nn.Sequential(
            Pointwise(in_channels, hidden), depthwise(hidden, stride=2), SqueezeExcite(hidden), Pointwise(hidden, half)
        )
        self.mix = nn.Sequential(depthwise(out_channels, act=nn.Hardswish), Pointwise(out_channels, out_channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(torch.cat((self.short(x), self.long(x)), dim=1))


class ShuffleUnit(nn.Module):
    """Transform one half of the channels, then interleave it with the other (1807.11164, figure 3c)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = hidden = channels // 2
        self.branch = nn.Sequential(
            Pointwise(half, hidden), depthwise(hidden), SqueezeExcite(hidden), Pointwise(hidden, half)
        )
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        untouched, worked = x.chunk(2, dim=1)
        return self.shuffle(torch.cat((untouched, self.branch(worked)), dim=1))


def lite_stage(in_channels: int, out_channels: int, count: int) -> nn.Sequential:
    """`count` units; the first one halves the resolution."""
    return nn.Sequential(ShuffleDown(in_channels, out_channels), *(ShuffleUnit(out_channels) for _ in range(count - 1)))


class LiteCSP(nn.Module):
    """A depthwise pair on one half of the channels, a plain convolution on the other."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.main = nn.Sequential(Pointwise(in_channels, half), Pointwise(half, half), DepthwisePair(half, half))
        self.bypass = Pointwise(in_channels, half)
        self.fuse = Pointwise(out_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fuse(torch.cat((self.main(x), self.bypass(x)), dim=1))


class CoarserLevel(nn.Module):
    """One more pyramid level: the sum of the deepest maps before and after the neck, each at half resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.before = DepthwisePair(channels, channels, stride=2)
        self.after = DepthwisePair(channels, channels, stride=2)

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        return self.before(before) + self.after(after)
