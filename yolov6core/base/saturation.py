"""Sums of 8-bit products on CPUs: the ones that saturate, and integer weights that cannot overflow them.

CPUs without VNNI multiply 8-bit integers by `vpmaddubsw`: products of an unsigned activation and a signed weight are
added in pairs into 16 bits, which saturate. Signed activations are shifted to 0 .. 255 before. A pair is exact for
every activation if its weights have different signs or sum to at most 128 in magnitude: 255 * 128 < 2^15.

Trials in oneDNN (OpenVINO) and MLAS (ONNX Runtime) on SSE4.1, AVX2 and AVX-512 without VNNI showed the pairs: they are
neighbours in the order kernel row, kernel column, input channel, counted from 0 for each group. With an even
number of channels these are the channels 2i and 2i + 1 at one place of the kernel. With an odd number, some kernels
pad each place and others do not, so all neighbours count. With a single channel, kernels go by rows or by columns, so
any two weights count. Depthwise kernels add no pairs.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

CpuSums = Literal["exact", "saturating"]
"""How a CPU adds products of 8-bit integers: in 32 bits (VNNI, AMX, ARM), or in pairs in 16 bits, which saturate."""
WEIGHT_LEVELS = 127
"""Weights use -127 .. 127: -128 would make their range asymmetric, and some integer kernels overflow on it."""
PAIR_LEVELS = 128
"""Largest sum of two weights of one sign that are added in 16 bits."""


def channel_amax(weight: Tensor) -> Tensor:
    """Largest magnitude [O] of each output channel of weights [O, ...]."""
    # No abs() and no flatten(): both write a copy, and of channels-last weights the second one is slow.
    weight, dims = weight.detach(), tuple(range(1, weight.dim()))
    return torch.maximum(weight.amax(dim=dims), -weight.amin(dim=dims))


def pair_peak(weight: Tensor, groups: int) -> Tensor:
    """Largest magnitude [O] of the sums of a pair's weights of one sign, in each output channel.

    It replaces `channel_amax` where sums of pairs must not overflow. With a scale of 1 / 127 of it, pairs round to 128
    at most (two halves round up), and single weights to 127.

    Args:
        weight: [O, I / groups, kh, kw].
        groups: of the convolution.
    """
    if not has_pairs(weight, groups):
        return channel_amax(weight)
    if weight.shape[1] == 1:
        return 2 * channel_amax(weight)
    first, second = _pairs(_rows(weight.detach()))
    dims = tuple(range(1, first.dim()))
    positive = first.clamp_min(0) + second.clamp_min(0)
    negative = first.clamp_max(0) + second.clamp_max(0)
    return torch.maximum(positive.amax(dim=dims), -negative.amin(dim=dims))


def has_pairs(weight: Tensor, groups: int) -> bool:
    """Whether kernels add products of weights [O, I / groups, kh, kw] in pairs: not in depthwise convolutions.

    A convolution from one channel to one is computed as a dense one.
    """
    depthwise = weight.shape[1] == 1 and weight.shape[0] == groups > 1
    return not depthwise and weight[0].numel() > 1


def integer_limits(integers: Tensor, pair_groups: int | None) -> Tensor | int:
    """Largest magnitude that each weight may have.

    Args:
        integers: weights [O, I / groups, kh, kw] as whole numbers of any size.
        pair_groups: groups of a convolution whose pairs must not overflow; None where pairs do not matter.

    Returns: a tensor of the shape of the weights, or one number for all. In a pair that is too large, a weight above 64
    is limited to 128 minus the other one; both are limited to 64 where both are above.
    """
    if pair_groups is None or not has_pairs(integers, pair_groups):
        return WEIGHT_LEVELS
    if integers.shape[1] == 1:
        return PAIR_LEVELS // 2
    rows = _rows(integers)
    limits = torch.full_like(rows, WEIGHT_LEVELS)
    (first, second), (first_limit, second_limit) = _pairs(rows), _pairs(limits)
    # Pairs may overlap, so limits are lowered in place, one side after the other.
    for limit, own, other in ((first_limit, first, second), (second_limit, second, first)):
        taken = torch.where(own.sign() == other.sign(), other.abs(), 0)
        limit.copy_(torch.minimum(limit, (PAIR_LEVELS - taken).clamp_min(PAIR_LEVELS // 2)))
    if rows.dim() == integers.dim():
        return limits
    channels, *kernel = integers.shape[1:]
    return limits.unflatten(1, (*kernel, channels)).permute(0, 3, 1, 2)


def overflows(integers: Tensor, groups: int) -> bool:
    """Whether sums of pairs of integer weights [O, I / groups, kh, kw] can leave 16 bits."""
    return bool((pair_peak(integers.float(), groups) > PAIR_LEVELS).any())


def _rows(weight: Tensor) -> Tensor:
    """Weights in the order in which neighbours are pairs: as they are, or [O, kh * kw * I / groups] as a copy."""
    return weight if weight.shape[1] % 2 == 0 else weight.permute(0, 2, 3, 1).flatten(1)


def _pairs(rows: Tensor) -> tuple[Tensor, Tensor]:
    """First and second weights of all pairs, as views."""
    return (rows[:, 0::2], rows[:, 1::2]) if rows.dim() == 4 else (rows[:, :-1], rows[:, 1:])
