"""Plain building blocks: convolution with batch norm and activation, its deployed form, pooling pyramid, stages."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

BATCH_NORM = {"eps": 1e-3, "momentum": 0.03}
"""The family's batch-norm settings; official checkpoints assume this eps."""


def fold_batch_norm(weight: Tensor, bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Kernel [O, I, k, k] and bias [O] that compute `bn(conv(x))` of a bias-free convolution, by stored statistics."""
    scale = bn.weight / torch.sqrt(bn.running_var + bn.eps)
    return weight * scale.reshape(-1, 1, 1, 1), bn.bias - bn.running_mean * scale


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
    conv = nn.Conv2d(
        like.in_channels,
        like.out_channels,
        like.kernel_size,
        like.stride,
        like.padding,
        like.dilation,
        like.groups,
        device=weight.device,
        dtype=weight.dtype,
    )
    conv.weight.data.copy_(weight.detach())
    conv.bias.data.copy_(bias.detach())
    return conv


class ConvBNAct(nn.Module):
    """Convolution without bias, batch norm, activation."""

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel: int = 3, stride: int = 1, act: type[nn.Module] = nn.ReLU
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, **BATCH_NORM)
        self.act = act(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))

    def deployed(self) -> ConvAct:
        """The same function as one convolution with bias and the activation."""
        weight, bias = fold_batch_norm(self.conv.weight, self.bn)
        return ConvAct(deployed_conv(weight, bias, self.conv), self.act)


class SPPF(nn.Module):
    """Spatial pyramid pooling, fast: three chained 5x5 max-pools see what 5, 9 and 13 wide windows would."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        hidden = in_channels // 2
        self.reduce = ConvBNAct(in_channels, hidden, kernel=1)
        self.pool = nn.MaxPool2d(5, stride=1, padding=2)
        self.fuse = ConvBNAct(4 * hidden, out_channels, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(x)  # [B, hidden, H, W]
        pooled = self.pool(x)
        twice = self.pool(pooled)
        return self.fuse(torch.cat((x, pooled, twice, self.pool(twice)), dim=1))


def repeat_block(block: Callable[..., nn.Module], in_channels: int, out_channels: int, count: int) -> nn.Sequential:
    """`count` blocks in a row, the first of which changes the number of channels."""
    return nn.Sequential(
        block(in_channels, out_channels), *(block(out_channels, out_channels) for _ in range(count - 1))
    )


def deploy_(model: nn.Module) -> nn.Module:
    """Replace every block by its deployed form, in place; returns `model`.

    After it the network holds convolutions with bias, activations, pooling and transposed convolutions only. Batch norm
    is folded with its stored statistics. Deploying twice changes nothing.
    """
    for name, child in model.named_children():
        if hasattr(child, "deployed"):
            setattr(model, name, child.deployed())
        else:
            deploy_(child)
    return model
