"""The forms of the 3x3 block: plain, scaled linear branches (search), RepVGG, QARepVGG and Diverse Branch Block.

All deploy to one 3x3 convolution with bias and an activation; they differ in the way the kernel is learned.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yolov6core.models.blocks import ConvAct, ConvBNAct, batch_norm, deployed_conv
from yolov6core.models.kernels import (
    KernelAndBias,
    added,
    averaging,
    fold_batch_norm,
    identity_as_1x1,
    in_sequence,
    pointwise_as_3x3,
)


def keeps_shape(conv: nn.Conv2d) -> bool:
    """Whether input and output of a convolution have the same shape, so that an identity branch is possible."""
    return conv.in_channels == conv.out_channels and conv.stride == (1, 1)


def skipped(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """The pixels of [B, C, H, W] at the centres of a strided convolution: a 1x1 convolution reads no others.

    A stride in the 1x1 convolution crashes torch 2.13's backward pass on the CPU for few channels-last input channels.
    """
    return x[:, :, :: conv.stride[0], :: conv.stride[1]]


def mean_3x3(x: Tensor, like: nn.Conv2d) -> Tensor:
    """The mean over 3x3 pixels of [B, C, H, W], zeros of the padding included, with the layout of a 3x3 convolution."""
    ninth = x.new_full((1,), 1 / 9).expand(x.shape[1], 1, 3, 3)
    return F.conv2d(x, ninth, None, like.stride, like.padding, like.dilation, groups=x.shape[1])


class ConvBN(nn.Module):
    """One branch of a block: convolution and batch norm. Without `padding` only the stride changes the size."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: int,
        stride: int = 1,
        padding: int | None = None,
        groups: int = 1,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        padding = kernel // 2 * dilation if padding is None else padding
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, groups, bias=False)
        self.bn = batch_norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))

    def folded(self) -> KernelAndBias:
        """Kernel and bias of the one convolution that does the same with stored statistics."""
        return fold_batch_norm(self.conv.weight, self.bn)


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
        weight, bias = self.dense.folded()
        pointwise, pointwise_bias = self.pointwise.folded()
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
            y = y + mean_3x3(x, self.dense.conv)
        return self.act(self.bn(y))

    def deployed(self) -> ConvAct:
        """One 3x3 convolution with bias; the norm after the sum is folded as well."""
        conv = self.dense.conv
        weight, bias = self.dense.folded()
        weight = weight + pointwise_as_3x3(self.pointwise.weight)
        if self.identity:
            weight = weight + pointwise_as_3x3(identity_as_1x1(torch.ones_like(bias), groups=conv.groups))
        if self.average:
            weight = weight + averaging(conv.out_channels, 3, groups=conv.groups, like=weight)
        return ConvAct(deployed_conv(*fold_batch_norm(weight, self.bn, bias), conv), self.act)


class DiverseBranchBlock(nn.Module):
    """ReLU of the sum of four branches (2103.13425, figure 3): 3x3, 1x1, 1x1 then 3x3, and 1x1 then a 3x3 mean.

    Batch norm follows each convolution and the mean. In a sequence the first convolution pads its input and the second
    one does not, so that the fused kernel is exact at the borders (section 3.2, transform III). The 1x1 in front of the
    3x3 keeps the number of channels and starts as the identity.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int = 1, groups: int = 1, dilation: int = 1
    ) -> None:
        super().__init__()
        layout = {"kernel": 3, "stride": stride, "groups": groups, "dilation": dilation}
        padded = {"kernel": 1, "padding": dilation, "groups": groups}
        self.dense = ConvBN(in_channels, out_channels, **layout)
        self.pointwise = ConvBN(in_channels, out_channels, kernel=1, groups=groups)
        self.sequence_pointwise = ConvBN(in_channels, in_channels, **padded)
        self.sequence_dense = ConvBN(in_channels, out_channels, padding=0, **layout)
        self.mean_pointwise = ConvBN(in_channels, out_channels, **padded)
        self.mean_bn = batch_norm(out_channels)
        self.act = nn.ReLU(inplace=True)
        nn.init.dirac_(self.sequence_pointwise.conv.weight, groups)

    def forward(self, x: Tensor) -> Tensor:
        sequence = self.sequence_dense(self.sequence_pointwise(x))
        mean = self.mean_bn(mean_3x3(self.mean_pointwise(x), self.sequence_dense.conv))
        return self.act(self.dense(x) + self.pointwise(skipped(x, self.dense.conv)) + sequence + mean)

    def deployed(self) -> ConvAct:
        """The sum of the branches as one 3x3 convolution."""
        conv = self.dense.conv
        pointwise, pointwise_bias = self.pointwise.folded()
        mean = averaging(conv.out_channels, 3, groups=conv.groups, like=conv.weight)
        weight, bias = added(
            self.dense.folded(),
            (pointwise_as_3x3(pointwise), pointwise_bias),
            in_sequence(self.sequence_pointwise.folded(), self.sequence_dense.folded(), groups=conv.groups),
            in_sequence(self.mean_pointwise.folded(), fold_batch_norm(mean, self.mean_bn), groups=conv.groups),
        )
        return ConvAct(deployed_conv(weight, bias, conv), self.act)


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
    "dbb": DiverseBranchBlock,
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
