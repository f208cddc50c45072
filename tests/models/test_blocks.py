"""Re-parameterisation: the deployed network computes the same function, once and for all."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from yolov6core.models.blocks import SPPF, deploy_
from yolov6core.models.detector import build_detector
from yolov6core.models.rep_blocks import BLOCKS, RepVGGBlock, ScaledLinearBlock
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
def test_a_block_deploys_to_one_equal_convolution(form, channels, stride):
    block = randomise_(BLOCKS[form](*channels, stride=stride))
    images = torch.randn(2, channels[0], 9, 7, dtype=torch.float64)
    deployed = block.deployed()
    torch.testing.assert_close(deployed(images), block(images), rtol=1e-10, atol=1e-10)
    assert sum(isinstance(part, nn.Conv2d) for part in deployed.modules()) == 1


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
    assert layouts[0] == layouts[1] == layouts[2]


def test_sppf_equals_pools_of_growing_width():
    module = SPPF(8, 8).double().eval()
    x = torch.randn(1, 8, 16, 16, dtype=torch.float64)
    reduced = module.reduce(x)
    pools = [nn.functional.max_pool2d(reduced, size, 1, size // 2) for size in (5, 9, 13)]
    torch.testing.assert_close(module(x), module.fuse(torch.cat((reduced, *pools), dim=1)))
