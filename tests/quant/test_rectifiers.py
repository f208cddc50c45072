"""ReLUs merged into quantizers: the same outputs, gradients and trained bytes, with nothing left out."""

from __future__ import annotations

import copy

import pytest
import torch

from yolov6core.quant.fake_quant import ActivationQuantizer, fake_quantize
from yolov6core.quant.graph_ops import Kind, kind_of
from yolov6core.quant.insert import learn_ranges_, quantizers_off, set_dialect_, set_float_layers_
from yolov6core.quant.rectifiers import with_merged_rectifiers
from yolov6core.quant.spec import DIALECTS, INT8, UINT8


def rectifiers(model) -> list[str]:
    return [str(node.target) for node in model.graph.nodes if kind_of(node, model) is Kind.RELU]


@pytest.mark.parametrize(("grid", "zero_point"), [(INT8, 0), (UINT8, 0), (UINT8, 85)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rectified_rounding_is_a_relu_and_a_rounding(grid, zero_point, dtype) -> None:
    values = torch.cat((torch.randn(5000), torch.tensor([0.0, -0.0, torch.inf, -torch.inf]))).to(dtype)
    ours, theirs = values.clone().requires_grad_(), values.clone().requires_grad_()
    one = fake_quantize(ours, 0.013, zero_point, grid, rectify=True)
    two = fake_quantize(theirs.relu(), 0.013, zero_point, grid)
    assert torch.equal(one, two)
    weights = torch.randn(values.shape).to(dtype)
    one.backward(weights)
    two.backward(weights)
    assert torch.equal(ours.grad, theirs.grad)
    assert 0 < (ours.grad == 0).sum() < len(values)


@pytest.mark.parametrize("dialect_name", DIALECTS)
@pytest.mark.parametrize("state", ["fixed", "learned", "off", "some float"])
def test_a_step_is_the_same_to_the_byte(calibrated, net, images, dialect_name, state) -> None:
    plain = set_dialect_(calibrated(net), dialect_name)
    if state == "learned":
        learn_ranges_(plain)
    if state == "some float":
        names = [name for name, module in plain.named_modules() if type(module).__name__ == "QuantConv2d"]
        set_float_layers_(plain, names[1:3])
    other = copy.deepcopy(plain)
    merged = with_merged_rectifiers(other)
    assert list(merged.state_dict()) == list(other.state_dict())
    assert len(rectifiers(merged)) < len(rectifiers(plain)), "some are merged"
    assert rectifiers(other) == rectifiers(plain), "the original is as it was"
    outputs = []
    for model in (plain, merged):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        for _ in range(2):
            optimizer.zero_grad()
            with quantizers_off(model) if state == "off" else torch.enable_grad():
                parts = model(images())
            sum(part.square().mean() for part in parts).backward()
            optimizer.step()
        outputs.append([part.detach() for part in parts])
    assert all(torch.equal(one, two) for one, two in zip(*outputs, strict=True))
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), f"{name}: the original learns with the merged one"


def test_copies_and_kept_rectifiers(calibrated, net, images) -> None:
    model = calibrated(net)
    assert rectifiers(with_merged_rectifiers(model, keep=["relu"])) == rectifiers(model)
    merged = with_merged_rectifiers(model)
    copied = copy.deepcopy(merged)
    assert rectifiers(copied) == rectifiers(merged) and set(copied.state_dict()) == set(merged.state_dict())
    for one, two in zip(copied(images()), model(images()), strict=True):
        assert torch.equal(one, two)


def test_a_switched_off_quantizer_still_rectifies() -> None:
    quantizer = ActivationQuantizer(INT8)
    quantizer.enabled = False
    assert quantizer(torch.tensor([-1.0, 2.0]), rectify=True).tolist() == [0.0, 2.0]
