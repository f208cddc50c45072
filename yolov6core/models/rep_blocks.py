"""The forms of the 3x3 block: plain, scaled linear branches (search), RepVGG and QARepVGG branches.

All deploy to one 3x3 convolution with bias and an activation; they differ in the way the kernel is learned.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yolov6core.models.blocks import ConvAct, ConvBNAct, batch_norm, deployed_conv, fold_batch_norm


def pointwise_as_3x3(weight: Tensor) -> Tensor:
    """A 1x1 kernel [O, I, 1, 1] in the centre of a 3x3 kernel [O, I, 3, 3] of zeros."""
    return F.pad(weight, (1, 1, 1, 1))


def identity_as_1x1(scale: Tensor, *, groups: int = 1) -> Tensor:
    """The 1x1 kernel [C, C / groups, 1, 1] that multiplies channel c by `scale` [C][c]."""
    width = scale.numel() // groups
    place = torch.arange(scale.numel(), device=scale.device) % width
    return scale[:, None, None, None] * F.one_hot(place, width).to(scale)[:, :, None, None]


def keeps_shape(conv: nn.Conv2d) -> bool:
    """Whether input and output of a convolution have the same shape, so that an identity branch is possible."""
    return conv.in_channels == conv.out_channels and conv.stride == (1, 1)


def skipped(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """The pixels of [B, C, H, W] at the centres of a strided convolution: a 1x1 convolution reads no others.

    A stride in the 1x1 convolution crashes torch 2.13's backward pass on the CPU for few channels-last input channels.
    """
    return x[:, :, :: conv.stride[0], :: conv.stride[1]]


class ConvBN(nn.Module):
    """One branch of a block: convolution and batch norm."""

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel: int, stride: int = 1, groups: int = 1, dilation: int = 1
    ) -> None:
        super().__init__()
        padding = kernel // 2 * dilation
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, groups, bias=False)
        self.bn = batch_norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class RepVGGBlock(nn.Module):
    """ReLU(BN(3x3) + BN(1x1) + BN(identity)), RepVGG (2101.03697); identity only where the shape is kept."""

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int = 1, groups: int = 1, dilation: int = 1
    ) -> None:
        super().__init__()
        self.dense = ConvBN(in_channels, out_channels, kernel=3, stride=stride, groups=groups, dilation=dilation)
        self.pointwise = ConvBN(in_channels, out_channels, kernel=1, groups=groups)
        self.identity = batch_norm(in_channels) if keeps_shape(self.dense.conv) else None
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.dense(x) + self.pointwise(skipped(x, self.dense.conv))
        return self.act(y if self.identity is None else y + self.identity(x))

    def deployed(self) -> ConvAct:
        """The sum of the branches as one 3x3 convolution (linear maps of one input add up kernel by kernel)."""
        conv = self.dense.conv
        weight, bias = fold_batch_norm(conv.weight, self.dense.bn)
        pointwise, pointwise_bias = fold_batch_norm(self.pointwise.conv.weight, self.pointwise.bn)
        weight, bias = weight + pointwise_as_3x3(pointwise), bias + pointwise_bias
        if self.identity is not None:
            unit = identity_as_1x1(torch.ones_like(self.identity.weight), groups=conv.groups)
            identity, identity_bias = fold_batch_norm(unit, self.identity)
            weight, bias = weight + pointwise_as_3x3(identity), bias + identity_bias
        return ConvAct(deployed_conv(weight, bias, conv), self.act)


class QARepVGGBlock(nn.Module):
    """ReLU(BN(BN(3x3) + 1x1 + identity)), QARepVGG (2212.01593): one norm after the sum bounds the fused kernel.

    With `average` (the second version) a 3x3 mean of the input is added where the identity is.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        groups: int = 1,
        dilation: int = 1,
        average: bool = False,
    ) -> None:
        super().__init__()
        self.dense = ConvBN(in_channels, out_channels, kernel=3, stride=stride, groups=groups, dilation=dilation)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, groups=groups, bias=False)
        self.bn = batch_norm(out_channels)
        self.act = nn.ReLU(inplace=True)
        self.identity = keeps_shape(self.dense.conv)
        self.average = average and self.identity

    def forward(self, x: Tensor) -> Tensor:
        y = self.dense(x) + self.pointwise(skipped(x, self.dense.conv))
        if self.identity:
            y = y + x
        if self.average:
            conv = self.dense.conv
            ninth = x.new_full((1,), 1 / 9).expand(x.shape[1], 1, 3, 3)
            y = y + F.conv2d(x, ninth, padding=conv.padding, dilation=conv.dilation, groups=x.shape[1])
        return self.act(self.bn(y))

    def deployed(self) -> ConvAct:
        """One 3x3 convolution with bias; the norm after the sum is folded as well."""
        conv = self.dense.conv
        weight, bias = fold_batch_norm(conv.weight, self.dense.bn)
        weight = weight + pointwise_as_3x3(self.pointwise.weight)
        if self.identity:
            weight = weight + pointwise_as_3x3(identity_as_1x1(torch.ones_like(bias), groups=conv.groups))
        if self.average:
            ninth = identity_as_1x1(torch.full_like(bias, 1 / 9), groups=conv.groups)
            weight = weight + ninth.expand(-1, -1, 3, 3)
        return ConvAct(deployed_conv(*fold_batch_norm(weight, self.bn, bias), conv), self.act)


class ChannelScale(nn.Module):
    """A learned factor per channel, the result of the hyper-search."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, kernel: Tensor) -> Tensor:
        """Kernel [C, I, k, k] with each output channel multiplied by its factor."""
        return kernel * self.weight[:, None, None, None]


class ScaledLinearBlock(nn.Module):
    """ReLU(BN(s3 * 3x3(x) + s1 * 1x1(x) + s0 * x)): the CSLA block of RepOptimizer's hyper-search (2205.15242).

    It has an identity only where the shape is kept. All scales start at 1; their distance from 1 is learned.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int = 1, groups: int = 1, dilation: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride, dilation, dilation, groups, bias=False)
        self.scale_conv = ChannelScale(out_channels)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, stride, groups=groups, bias=False)
        self.scale_pointwise = ChannelScale(out_channels)
        self.scale_identity = ChannelScale(out_channels) if keeps_shape(self.conv) else None
        self.bn = batch_norm(out_channels)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        # All branches are linear, so their kernels are added instead of their outputs: one convolution, not two.
        conv = self.conv
        return self.act(
            self.bn(F.conv2d(x, self.kernel(), None, conv.stride, conv.padding, conv.dilation, conv.groups))
        )

    def kernel(self) -> Tensor:
        """The 3x3 kernel [O, I / groups, 3, 3] that the linear branches add up to."""
        kernel = self.scale_conv(self.conv.weight) + pointwise_as_3x3(self.scale_pointwise(self.pointwise.weight))
        if self.scale_identity is None:
            return kernel
        return kernel + pointwise_as_3x3(identity_as_1x1(self.scale_identity.weight, groups=self.conv.groups))

    def deployed(self) -> ConvAct:
        """One 3x3 convolution with bias."""
        return ConvAct(deployed_conv(*fold_batch_norm(self.kernel(), self.bn), self.conv), self.act)


BLOCKS: dict[str, Callable[..., nn.Module]] = {
    "repopt": ConvBNAct,
    "scaled": ScaledLinearBlock,
    "repvgg": RepVGGBlock,
    "qarepvgg": QARepVGGBlock,
    "qarepvggv2": partial(QARepVGGBlock, average=True),
    "conv_relu": ConvBNAct,
    "conv_silu": partial(ConvBNAct, act=nn.SiLU),
    "conv_hardswish": partial(ConvBNAct, act=nn.Hardswish),
}
"""Block forms by the name used in `params.yaml` and checkpoints.

`repopt` and `conv_relu` are one network; the first is trained with RepOptimizer's gradient multipliers.
"""


def activation_of(block: str) -> type[nn.Module]:
    """Activation of the plain convolutions in networks with blocks of this form."""
    return {"conv_silu": nn.SiLU, "conv_hardswish": nn.Hardswish}.get(block, nn.ReLU)
