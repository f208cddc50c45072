"""The three forms of the 3x3 block: scaled linear branches (search), plain convolution (RepOptimizer), RepVGG branches.

All three compute, once deployed, one 3x3 convolution with bias and a ReLU; they differ in how that kernel is learned.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yolov6core.models.blocks import BATCH_NORM, ConvAct, ConvBNAct, deployed_conv, fold_batch_norm


def pointwise_as_3x3(weight: Tensor) -> Tensor:
    """A 1x1 kernel [O, I, 1, 1] in the middle of a 3x3 kernel [O, I, 3, 3] of zeros."""
    return F.pad(weight, (1, 1, 1, 1))


def identity_as_3x3(scale: Tensor) -> Tensor:
    """The 3x3 kernel [C, C, 3, 3] that multiplies channel c by `scale` [C][c]."""
    return pointwise_as_3x3(torch.diag(scale)[:, :, None, None])


class ConvBN(nn.Module):
    """One branch of a RepVGG block."""

    def __init__(self, in_channels: int, out_channels: int, *, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, **BATCH_NORM)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class RepVGGBlock(nn.Module):
    """ReLU(BN(3x3) + BN(1x1) + BN(identity)), RepVGG (2101.03697); identity only where the shape is kept."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.dense = ConvBN(in_channels, out_channels, kernel=3, stride=stride)
        self.pointwise = ConvBN(in_channels, out_channels, kernel=1, stride=1)
        keeps_shape = in_channels == out_channels and stride == 1
        self.identity = nn.BatchNorm2d(in_channels, **BATCH_NORM) if keeps_shape else None
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        # Skipping pixels before the 1x1 convolution equals its stride. The stride itself crashes torch 2.13's backward
        # pass on the CPU for few input channels in the channels-last layout.
        stride = self.dense.conv.stride[0]
        y = self.dense(x) + self.pointwise(x[:, :, ::stride, ::stride])
        return self.act(y if self.identity is None else y + self.identity(x))

    def deployed(self) -> ConvAct:
        """The sum of the branches as one 3x3 convolution (linear maps of one input add up kernel by kernel)."""
        weight, bias = fold_batch_norm(self.dense.conv.weight, self.dense.bn)
        pointwise, pointwise_bias = fold_batch_norm(self.pointwise.conv.weight, self.pointwise.bn)
        weight, bias = weight + pointwise_as_3x3(pointwise), bias + pointwise_bias
        if self.identity is not None:
            unit = identity_as_3x3(torch.ones_like(self.identity.weight))
            identity, identity_bias = fold_batch_norm(unit, self.identity)
            weight, bias = weight + identity, bias + identity_bias
        return ConvAct(deployed_conv(weight, bias, self.dense.conv), self.act)


class ChannelScale(nn.Module):
    """A learned factor per channel: what the hyper-search is after."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, kernel: Tensor) -> Tensor:
        """Kernel [C, I, k, k] with each output channel multiplied by its factor."""
        return kernel * self.weight[:, None, None, None]


class ScaledLinearBlock(nn.Module):
    """ReLU(BN(s3 * 3x3(x) + s1 * 1x1(x) + s0 * x)): the CSLA block of RepOptimizer's hyper-search (2205.15242).

    Identity only where the shape is kept. All scales start at one, so that the distance from one is what was learned.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.scale_conv = ChannelScale(out_channels)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        self.scale_pointwise = ChannelScale(out_channels)
        keeps_shape = in_channels == out_channels and stride == 1
        self.scale_identity = ChannelScale(out_channels) if keeps_shape else None
        self.bn = nn.BatchNorm2d(out_channels, **BATCH_NORM)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        # All branches are linear, so their kernels are added instead of their outputs: one convolution, not two.
        y = F.conv2d(x, self.kernel(), stride=self.conv.stride, padding=self.conv.padding)
        return self.act(self.bn(y))

    def kernel(self) -> Tensor:
        """The 3x3 kernel [O, I, 3, 3] that the linear branches add up to."""
        kernel = self.scale_conv(self.conv.weight) + pointwise_as_3x3(self.scale_pointwise(self.pointwise.weight))
        return kernel if self.scale_identity is None else kernel + identity_as_3x3(self.scale_identity.weight)

    def deployed(self) -> ConvAct:
        """One 3x3 convolution with bias."""
        weight, bias = fold_batch_norm(self.kernel(), self.bn)
        return ConvAct(deployed_conv(weight, bias, self.conv), self.act)


BLOCKS: dict[str, type[nn.Module]] = {"repopt": ConvBNAct, "scaled": ScaledLinearBlock, "repvgg": RepVGGBlock}
"""Block forms by the name used in `params.yaml` and checkpoints."""
