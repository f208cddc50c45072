"""Linear maps as kernels: the six transforms of Diverse Branch Block (2103.13425, section 3.2).

Branches of convolutions, batch norms and means become one convolution with them. A kernel is [O, I / groups, k, k], a
bias [O]. Transforms I to VI: `fold_batch_norm`, `added`, `in_sequence`, `side_by_side`, `averaging`,
`pointwise_as_3x3`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

KernelAndBias = tuple[Tensor, Tensor]
"""Kernel [O, I / groups, k, k] and bias [O] of a convolution."""


def fold_batch_norm(weight: Tensor, bn: nn.BatchNorm2d, bias: Tensor | None = None) -> KernelAndBias:
    """Kernel [O, I, k, k] and bias [O] that compute `bn(conv(x))` with stored statistics; `bias` is that of `conv`."""
    assert bn.running_mean is not None and bn.running_var is not None, "norms of this family keep statistics"
    scale = bn.weight / torch.sqrt(bn.running_var + bn.eps)
    mean = bn.running_mean if bias is None else bn.running_mean - bias
    return weight * scale.reshape(-1, 1, 1, 1), bn.bias - mean * scale


def added(*branches: KernelAndBias) -> KernelAndBias:
    """The convolution whose output is the sum of those of `branches`, which have kernels of one size."""
    kernels, biases = zip(*branches, strict=True)
    return torch.stack(kernels).sum(dim=0), torch.stack(biases).sum(dim=0)


def in_sequence(first: KernelAndBias, second: KernelAndBias, *, groups: int = 1) -> KernelAndBias:
    """A 1x1 convolution and the k x k one that reads its output, as one k x k convolution; both have `groups`.

    The bias is right at the borders as well only if the second convolution pads with what the first one makes of zeros:
    if the first one pads its input, and the second nothing.
    """
    (kernels, biases), (outer_kernels, outer_biases) = (
        [tensor.chunk(groups) for tensor in convolution] for convolution in (first, second)
    )
    return side_by_side(*(_pair(*group) for group in zip(kernels, biases, outer_kernels, outer_biases, strict=True)))


def _pair(kernel: Tensor, bias: Tensor, outer_kernel: Tensor, outer_bias: Tensor) -> KernelAndBias:
    """`in_sequence` of one group: kernels [M, I, 1, 1] and [O, M, k, k]."""
    return (
        torch.einsum("omhw,mi->oihw", outer_kernel, kernel[:, :, 0, 0]),
        torch.einsum("omhw,m->o", outer_kernel, bias) + outer_bias,
    )


def side_by_side(*parts: KernelAndBias) -> KernelAndBias:
    """The convolution that gives the outputs of `parts` one after the other: of one input, or of a group's each."""
    kernels, biases = zip(*parts, strict=True)
    return torch.cat(kernels), torch.cat(biases)


def averaging(channels: int, size: int, *, groups: int = 1, like: Tensor) -> Tensor:
    """The kernel [C, C / groups, k, k] of the mean over `size` x `size` pixels, zeros of the padding included.

    `like` gives dtype and device.
    """
    share = like.new_full((channels,), 1 / size**2)
    return identity_as_1x1(share, groups=groups).expand(-1, -1, size, size)


def pointwise_as_3x3(weight: Tensor) -> Tensor:
    """A 1x1 kernel [O, I, 1, 1] in the centre of a 3x3 kernel [O, I, 3, 3] of zeros."""
    return F.pad(weight, (1, 1, 1, 1))


def identity_as_1x1(scale: Tensor, *, groups: int = 1) -> Tensor:
    """The 1x1 kernel [C, C / groups, 1, 1] that multiplies channel c by `scale` [C][c]."""
    width = scale.numel() // groups
    place = torch.arange(scale.numel(), device=scale.device) % width
    return scale[:, None, None, None] * F.one_hot(place, width).to(scale)[:, :, None, None]
