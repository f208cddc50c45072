"""The six transforms of Diverse Branch Block: one convolution gives what the branches give, at the borders as well."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.models.test_blocks import randomise_
from yolov6core.models.kernels import (
    KernelAndBias,
    added,
    averaging,
    fold_batch_norm,
    in_sequence,
    pointwise_as_3x3,
    side_by_side,
)
from yolov6core.models.rep_blocks import DiverseBranchBlock

GROUPS = pytest.mark.parametrize("groups", [1, 2, 4])


def drawn(outputs: int, inputs: int, size: int, *, groups: int = 1) -> KernelAndBias:
    kernel = torch.randn(outputs, inputs // groups, size, size, dtype=torch.float64)
    return kernel, torch.randn(outputs, dtype=torch.float64)


def images(channels: int = 4) -> Tensor:
    return torch.randn(2, channels, 7, 6, dtype=torch.float64)


def test_1_a_batch_norm_goes_into_the_convolution_before_it():
    bn = randomise_(nn.Sequential(nn.BatchNorm2d(6)))[0]
    kernel, bias = drawn(6, 4, 3)
    x = images()
    folded = fold_batch_norm(kernel, bn, bias)
    torch.testing.assert_close(F.conv2d(x, *folded, padding=1), bn(F.conv2d(x, kernel, bias, padding=1)))


def test_2_branches_add_up():
    branches = [drawn(6, 4, 3) for _ in range(3)]
    x = images()
    expected = sum(F.conv2d(x, *branch, padding=1) for branch in branches)
    torch.testing.assert_close(F.conv2d(x, *added(*branches), padding=1), expected)


@GROUPS
@pytest.mark.parametrize("stride", [1, 2])
def test_3_a_sequence_is_one_convolution_if_the_first_pads(groups, stride):
    first, second = drawn(8, 4, 1, groups=groups), drawn(12, 8, 3, groups=groups)
    x = images()
    expected = F.conv2d(F.conv2d(x, *first, padding=1, groups=groups), *second, stride=stride, groups=groups)
    one = in_sequence(first, second, groups=groups)
    assert one[0].shape == (12, 4 // groups, 3, 3)
    torch.testing.assert_close(F.conv2d(x, *one, stride=stride, padding=1, groups=groups), expected)
    wrong = F.conv2d(F.conv2d(x, *first, groups=groups), *second, stride=stride, padding=1, groups=groups)
    assert not torch.allclose(wrong, expected), "padding the second one gives other borders"


def test_4_outputs_side_by_side():
    parts = [drawn(outputs, 4, 3) for outputs in (2, 3)]
    x = images()
    expected = torch.cat([F.conv2d(x, *part, padding=1) for part in parts], dim=1)
    torch.testing.assert_close(F.conv2d(x, *side_by_side(*parts), padding=1), expected)


@GROUPS
@pytest.mark.parametrize("size", [3, 5])
def test_5_a_mean_is_a_convolution(groups, size):
    x = images()
    kernel = averaging(4, size, groups=groups, like=x)
    expected = F.avg_pool2d(x, size, stride=1, padding=size // 2)
    torch.testing.assert_close(F.conv2d(x, kernel, padding=size // 2, groups=groups), expected)


def test_6_a_pointwise_kernel_is_the_centre_of_a_larger_one():
    kernel, bias = drawn(6, 4, 1)
    x = images()
    torch.testing.assert_close(F.conv2d(x, pointwise_as_3x3(kernel), bias, padding=1), F.conv2d(x, kernel, bias))


def test_the_block_is_what_its_paper_draws():
    block = randomise_(DiverseBranchBlock(4, 6))
    x = images()
    padded = F.pad(x, (1, 1, 1, 1))  # the 1x1 of a sequence sees the padding, and its batch norm makes a border of it
    pool = F.avg_pool2d(block.mean_pointwise.bn(F.conv2d(padded, block.mean_pointwise.conv.weight)), 3, stride=1)
    first = block.sequence_pointwise.bn(F.conv2d(padded, block.sequence_pointwise.conv.weight))
    expected = (
        block.dense.bn(F.conv2d(x, block.dense.conv.weight, padding=1))
        + block.pointwise.bn(F.conv2d(x, block.pointwise.conv.weight))
        + block.sequence_dense.bn(F.conv2d(first, block.sequence_dense.conv.weight))
        + block.mean_bn(pool)
    )
    torch.testing.assert_close(block(x), expected.relu())


@GROUPS
def test_the_sequence_starts_as_the_identity(groups):
    block = DiverseBranchBlock(4, 8, groups=groups).eval()
    x = torch.randn(1, 4, 5, 5)
    start = block.sequence_pointwise.conv(x)
    torch.testing.assert_close(start[:, :, 1:-1, 1:-1], x)
