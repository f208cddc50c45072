"""Plain building blocks: convolution with batch norm and activation, its deployed form, pooling pyramids."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from yolov6core.models.kernels import fold_batch_norm


@runtime_checkable
class Deployable(Protocol):
    """A block with another form for inference."""

    def deployed(self) -> nn.Module | None:
        """The form for inference; None where nothing is left."""
        ...


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm with the settings of the family; official checkpoints assume this eps."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.03)


class ConvAct(nn.Module):
    """Deployed form of every block: one convolution with bias, then an activation."""

    def __init__(self, conv: nn.Conv2d, act: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))


def deployed_conv(weight: Tensor, bias: Tensor, like: nn.Conv2d) -> nn.Conv2d:
    """A convolution with this kernel [O, I, k, k] and bias [O], and stride, padding, groups, dilation of `like`."""
    layout: Any = like  # torch's stubs give sizes of any length, but take pairs only
    conv = nn.Conv2d(
        like.in_channels,
        like.out_channels,
        layout.kernel_size,
        layout.stride,
        layout.padding,
        layout.dilation,
        like.groups,
        device="meta",  # no memory and no random numbers for weights that are replaced at once
    )
    conv.weight = nn.Parameter(weight.detach().clone(memory_format=torch.contiguous_format))
    conv.bias = nn.Parameter(bias.detach().clone())
    return conv


class ConvBNAct(nn.Module):
    """Convolution, batch norm, activation; only the stride changes the size."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: int = 3,
        stride: int = 1,
        groups: int = 1,
        dilation: int = 1,
        bias: bool = False,
        act: type[nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        padding = kernel // 2 * dilation
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, groups, bias)
        self.bn = batch_norm(out_channels)
        self.act = nn.Identity() if act is nn.Identity else act(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))

    def deployed(self) -> ConvAct:
        """The same function as one convolution with bias and the activation."""
        weight, bias = fold_batch_norm(self.conv.weight, self.bn, self.conv.bias)
        return ConvAct(deployed_conv(weight, bias, self.conv), self.act)


def pooled_pyramid(x: Tensor, pool: nn.Module) -> Tensor:
    """`x` and three chained poolings of it, [B, 4 * C, H, W]: windows of 5 pixels in a chain equal 5, 9 and 13."""
    once = pool(x)
    twice = pool(once)
    return torch.cat((x, once, twice, pool(twice)), dim=1)


class SPPF(nn.Module):
    """Spatial pyramid pooling, fast."""

    def __init__(self, in_channels: int, out_channels: int, *, act: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        hidden = in_channels // 2
        self.reduce = ConvBNAct(in_channels, hidden, kernel=1, act=act)
        self.pool = nn.MaxPool2d(5, stride=1, padding=2)
        self.fuse = ConvBNAct(4 * hidden, out_channels, kernel=1, act=act)

    def forward(self, x: Tensor) -> Tensor:
        return self.fuse(pooled_pyramid(self.reduce(x), self.pool))


class CSPSPPF(nn.Module):
    """SPPF between convolutions on one half of the channels, joined with the other half (2301.05586, section 2.1)."""

    def __init__(self, in_channels: int, out_channels: int, *, act: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        hidden = out_channels // 2
        self.before = nn.Sequential(
            ConvBNAct(in_channels, hidden, kernel=1, act=act),
            ConvBNAct(hidden, hidden, act=act),
            ConvBNAct(hidden, hidden, kernel=1, act=act),
        )
        self.pool = nn.MaxPool2d(5, stride=1, padding=2)
        self.after = nn.Sequential(ConvBNAct(4 * hidden, hidden, kernel=1, act=act), ConvBNAct(hidden, hidden, act=act))
        self.bypass = ConvBNAct(in_channels, hidden, kernel=1, act=act)
        self.fuse = ConvBNAct(2 * hidden, out_channels, kernel=1, act=act)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.after(pooled_pyramid(self.before(x), self.pool))
        return self.fuse(torch.cat((self.bypass(x), pooled), dim=1))


def deploy_(model: nn.Module) -> nn.Module:
    """Replace every block by its deployed form, in place; returns `model`.

    The network then contains only convolutions with bias, activations, pooling and transposed convolutions. Batch norm
    is folded with its stored statistics, and branches for training are removed. Deploying twice changes nothing.
    """
    for name, child in model.named_children():
        if isinstance(child, Deployable):
            setattr(model, name, child.deployed())
        else:
            deploy_(child)
    return model
