"""Re-parameterisation: the deployed network computes the same function, once and for all."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.support.speed import slow_except
from yolov6core.models.blocks import SPPF, deploy_
from yolov6core.models.detector import build_detector
from yolov6core.models.rep_blocks import BLOCKS, RepVGGBlock, ScaledLinearBlock
from yolov6core.models.stage_blocks import Bottleneck, MBLAStage, branch_depths
from yolov6core.models.variants import VARIANTS


def randomise_(module: nn.Module) -> nn.Module:
    """Random batch-norm statistics and scales: identity-like defaults would hide a wrong folding."""
    generator = torch.Generator().manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.uniform_(-0.5, 0.5, generator=generator)
            part.running_var.uniform_(0.5, 2.0, generator=generator)
            part.weight.data.uniform_(0.5, 1.5, generator=generator)
            part.bias.data.uniform_(-0.5, 0.5, generator=generator)
        elif part.__class__.__name__ == "ChannelScale":
            part.weight.data.uniform_(-1.5, 1.5, generator=generator)
    return module.double().eval()


@pytest.mark.parametrize("form", BLOCKS)
@pytest.mark.parametrize(("channels", "stride"), [((8, 8), 1), ((8, 16), 1), ((8, 8), 2)])
@pytest.mark.parametrize("layout", [{}, {"groups": 2}, {"groups": 8}, {"dilation": 2}, {"groups": 4, "dilation": 3}])
def test_a_block_deploys_to_one_equal_convolution(form, channels, stride, layout):
    block = randomise_(BLOCKS[form](*channels, stride=stride, **layout))
    images = torch.randn(2, channels[0], 9, 7, dtype=torch.float64)
    deployed = block.deployed()
    torch.testing.assert_close(deployed(images), block(images), rtol=1e-10, atol=1e-10)
    (conv,) = (part for part in deployed.modules() if isinstance(part, nn.Conv2d))
    assert conv.groups == layout.get("groups", 1) and conv.dilation == (layout.get("dilation", 1),) * 2
    single = block.float()(images.float())
    assert (block.deployed()(images.float()) - single).norm() < 1e-4 * single.norm()


def test_qarepvgg_is_what_its_paper_writes():
    block = randomise_(BLOCKS["qarepvggv2"](4, 4))
    x = torch.randn(1, 4, 6, 5, dtype=torch.float64)
    mean = nn.functional.avg_pool2d(x, 3, 1, padding=1)
    expected = block.bn(block.dense.bn(block.dense.conv(x)) + block.pointwise(x) + x + mean).relu()
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("form", [RepVGGBlock, ScaledLinearBlock])
def test_identity_branch_exists_only_where_the_shape_is_kept(form):
    names = [
        {name for name, _ in form(*args, stride=stride).named_parameters()}
        for args, stride in [((8, 8), 1), ((8, 16), 1), ((8, 8), 2)]
    ]
    assert [any("identity" in name for name in found) for found in names] == [True, False, False]


@pytest.mark.parametrize("form", BLOCKS)
def test_deploying_a_network_keeps_its_function_and_is_idempotent(form):
    model = randomise_(build_detector(VARIANTS["test"], num_classes=3, block=form))
    images = torch.rand(1, 3, 64, 96, dtype=torch.float64)
    expected = model(images)
    deployed = deploy_(copy.deepcopy(model))
    again = deploy_(copy.deepcopy(deployed))
    assert not any(isinstance(part, nn.BatchNorm2d) for part in deployed.modules())
    for got in (deployed(images), again(images)):
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)
    assert deployed.state_dict().keys() == again.state_dict().keys()


def test_all_forms_deploy_to_the_same_layout():
    layouts = [
        {
            name: tuple(value.shape)
            for name, value in deploy_(build_detector(VARIANTS["test"], num_classes=3, block=form)).state_dict().items()
        }
        for form in BLOCKS
    ]
    assert all(layout == layouts[0] for layout in layouts)


@pytest.mark.parametrize("name", slow_except(VARIANTS, "yolov6n", "yolov6_lite_s", "test"))
def test_every_variant_deploys_to_the_same_function(name):
    narrow = replace(VARIANTS[name], width=0.0625, depth=min(VARIANTS[name].depth, 0.5))
    model = randomise_(build_detector(narrow, num_classes=2))
    images = torch.rand(1, 3, 128, 64, dtype=torch.float64)
    expected = model(images)
    deployed = deploy_(copy.deepcopy(model))
    assert not any(isinstance(part, nn.BatchNorm2d) for part in deployed.modules())
    for a, b in zip(deployed(images), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5, 8])
def test_mbla_keeps_every_unit(depth):
    depths = branch_depths(depth)
    assert depths[0] == 0 and depths[-1] == depth and list(depths) == sorted(set(depths))
    stage = MBLAStage(BLOCKS["conv_silu"], 8, 16, 2 * depth, ratio=0.5)
    assert stage.fuse.conv.in_channels == 8 * (len(depths) + sum(depths))
    assert stage(torch.rand(2, 8, 4, 4)).shape == (2, 16, 4, 4)


def test_a_trained_shortcut_factor_survives_deployment():
    bottleneck = randomise_(Bottleneck(BLOCKS["repvgg"], 4, blocks=2))
    bottleneck.shortcut.weight.data.fill_(0.5)
    x = torch.randn(1, 4, 5, 5, dtype=torch.float64)
    expected = bottleneck(x)
    torch.testing.assert_close(deploy_(bottleneck)(x), expected)
    assert bottleneck.shortcut is not None


def test_sppf_equals_pools_of_growing_width():
    module = SPPF(8, 8).double().eval()
    x = torch.randn(1, 8, 16, 16, dtype=torch.float64)
    reduced = module.reduce(x)
    pools = [nn.functional.max_pool2d(reduced, size, 1, size // 2) for size in (5, 9, 13)]
    torch.testing.assert_close(module(x), module.fuse(torch.cat((reduced, *pools), dim=1)))
