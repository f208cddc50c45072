"""RepOptimizer's promise: a plain convolution with multiplied gradients follows the scaled branches exactly."""

from __future__ import annotations

import copy

import pytest
import torch

from yolov6core.models.detector import build_detector
from yolov6core.models.rep_blocks import BLOCKS
from yolov6core.models.variants import VARIANTS
from yolov6core.training.repopt import (
    apply_scales_,
    attach_multipliers,
    gradient_multiplier,
    scale_health,
    scales_from_state,
    scales_from_tensors,
    scales_to_tensors,
)


def searched_model(seed: int = 0):
    torch.manual_seed(seed)
    model = build_detector(VARIANTS["test"], num_classes=2, block="scaled")
    for name, parameter in model.named_parameters():
        if ".scale_" in name:
            parameter.data.uniform_(0.5, 1.5)
    return model


@pytest.mark.parametrize(("channels", "stride"), [((6, 8), 1), ((6, 6), 2)])
def test_plain_convolution_follows_the_scaled_branches(channels, stride):
    torch.manual_seed(1)
    scaled = BLOCKS["scaled"](*channels, stride=stride).double()
    for scale in (scaled.scale_conv, scaled.scale_pointwise):
        scale.weight.data.uniform_(0.5, 1.5)
        scale.weight.requires_grad_(False)
    plain = BLOCKS["repopt"](*channels, stride=stride).double()
    plain.conv.weight.data.copy_(scaled.kernel().detach())
    scales = scales_from_state({f"b.{k}": v for k, v in scaled.state_dict().items()})["b"]
    multiplier = gradient_multiplier(plain.conv.weight.shape, scales).double()
    plain.conv.weight.register_hook(lambda grad: grad * multiplier)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9, nesterov=True) for m in (scaled, plain)]
    for step in range(20):
        x = torch.randn(4, channels[0], 8, 8, dtype=torch.float64)
        for model, optimizer in zip((scaled, plain), optimizers, strict=True):
            for half in x.chunk(2):  # accumulation: the hook must act once per backward pass
                model(half).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        torch.testing.assert_close(plain.conv.weight, scaled.kernel(), rtol=1e-6, atol=1e-7, msg=f"step {step}")


def test_scales_survive_storage():
    scales = scales_from_state(searched_model().state_dict())
    again = scales_from_tensors(scales_to_tensors(scales))
    assert set(again) == set(scales)
    for block in scales:
        assert torch.equal(scales[block].dense, again[block].dense)
        assert (scales[block].identity is None) == (again[block].identity is None)
    assert all(row["moved"] > 0.1 for row in scale_health(scales) if row["channels"] >= 8)


def test_initialisation_is_seeded_and_hooks_stay_with_the_original():
    scales = scales_from_state(searched_model().state_dict())
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        model = build_detector(VARIANTS["test"], num_classes=2)
        apply_scales_(model, scales, generator=torch.Generator().manual_seed(5))
        models.append(model)
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))
    remove = attach_multipliers(models[0], scales)
    clone = copy.deepcopy(models[0])
    for model in (models[0], clone):
        model.backbone.stem.conv.weight.sum().backward()
    assert torch.equal(clone.backbone.stem.conv.weight.grad, torch.ones_like(clone.backbone.stem.conv.weight))
    assert not torch.equal(models[0].backbone.stem.conv.weight.grad, clone.backbone.stem.conv.weight.grad)
    remove()
    models[0].zero_grad()
    models[0].backbone.stem.conv.weight.sum().backward()
    assert torch.equal(models[0].backbone.stem.conv.weight.grad, clone.backbone.stem.conv.weight.grad)


def test_scales_of_another_network_are_refused():
    scales = scales_from_state(searched_model().state_dict())
    wider = build_detector(VARIANTS["yolov6n_v2"], num_classes=2)
    with pytest.raises(ValueError, match="do not belong to this network"):
        attach_multipliers(wider, scales)
