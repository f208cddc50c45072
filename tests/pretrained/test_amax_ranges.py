"""Ranges to and from state dicts of pytorch-quantization and modelopt."""

from __future__ import annotations

import pytest
import torch

from yolov6core.base.saturation import channel_amax
from yolov6core.pretrained.amax_ranges import from_amax_, to_amax
from yolov6core.quant.insert import (
    freeze_weight_ranges_,
    get_ranges,
    insert_quantizers,
    quantizable_names,
    set_float_layers_,
    state_of,
)


@pytest.mark.parametrize("style", ["pytorch-quantization", "modelopt"])
def test_ranges_survive_the_round_trip(net, calibrated, images, style):
    gm = calibrated(net.requires_grad_(False))
    state = to_amax(gm, style=style)
    again = insert_quantizers(net)
    from_amax_(again, state)
    assert torch.equal(
        again.up.conv.weight_amax.view(-1, 4).amin(1), channel_amax(gm.up.conv.weight).view(-1, 4).amax(1)
    )
    again.up.conv.weight_amax.copy_(channel_amax(gm.up.conv.weight))  # a channel has one range there, four here
    for ours, reference in zip(again(images()), gm(images()), strict=True):
        assert torch.equal(ours, reference)
    assert state_of(again).float_layers == state_of(gm).float_layers
    assert get_ranges(again)["relu_1"][0] == 0.0, "a ReLU's range starts at 0"


def test_names_and_shapes_are_the_toolkits(net, calibrated):
    gm = calibrated(net)
    state = to_amax(gm)
    assert set(state) == {
        f"{name.removesuffix('.conv')}._{what}_quantizer._amax"
        for name in quantizable_names(gm)
        for what in ("input", "weight")
    }
    assert state["up._weight_quantizer._amax"].shape == (1, 8, 1, 1)
    assert state["stem._input_quantizer._amax"].shape == () and float(state["stem._input_quantizer._amax"]) <= 1
    weights = state["down._weight_quantizer._amax"]
    assert weights.shape == (8, 1, 1, 1) and torch.equal(weights.flatten(), channel_amax(net.down.weight))
    assert "model.down.input_quantizer._amax" in to_amax(gm, style="modelopt", rename=lambda name: f"model.{name}")
    freeze_weight_ranges_(gm)
    with torch.no_grad():
        gm.down.weight.mul_(2)
    assert torch.equal(to_amax(gm)["down._weight_quantizer._amax"], weights)


def test_foreign_states_are_read(net):
    """Names of data-parallel training, per-tensor weights, quantizers of other layers, layers that stay float."""
    gm = insert_quantizers(net, quantize_predictions=True)
    before = channel_amax(net.fuse.weight)
    names = ["stem", "depthwise", "dilated", "fuse", "cls_pred", "reg_pred"]
    state = {f"module.net.{name}._input_quantizer._amax": torch.tensor([0.5 + i]) for i, name in enumerate(names)}
    state |= {f"module.net.{name}._weight_quantizer._amax": torch.tensor(0.25) for name in names}
    state |= {"module.net.pool._input_quantizer._amax": torch.tensor(3.0), "module.net.stem.weight": net.stem.weight}
    from_amax_(gm, state, rename=lambda name: name.removeprefix("net."))
    assert state_of(gm).float_layers == {"down", "neck", "up.conv"}
    found = get_ranges(gm)
    assert found["x"] == (-0.5, 0.5) and found["relu_1"] == (0.0, 2.5)
    assert found["add"] == (-3.5, 3.5)
    assert found["act"] == (-5.5, 5.5), "both predictions read one group, which gets the larger range"
    assert torch.equal(gm.stem.weight_amax, torch.full((8,), 0.25)) and gm.stem.frozen
    assert torch.equal(gm.fuse.weight_amax, torch.full((8,), 0.25)) and not torch.equal(gm.fuse.weight_amax, before)
    assert torch.equal(gm.down.weight_amax, channel_amax(net.down.weight))


def test_wrong_states_are_refused_and_change_nothing(net, calibrated):
    gm = calibrated(net)
    state, before = to_amax(gm), get_ranges(gm)
    key = "fuse._input_quantizer._amax"
    wrong = [
        ({}, "no _amax of a convolution"),
        ({key: state[key]}, "fuse: has only one of"),
        (state | {key: torch.tensor(float("nan"))}, "finite magnitudes"),
        (state | {key: torch.tensor([1.0, 2.0])}, "one range for all channels"),
        (state | {"fuse._weight_quantizer._amax": torch.ones(3)}, "8 output channels"),
    ]
    for broken, message in wrong:
        with pytest.raises(ValueError, match=message):
            from_amax_(gm, broken)
    assert get_ranges(gm) == before and not gm.fuse.frozen
    with pytest.raises(ValueError, match="style 'onnx' is unknown"):
        to_amax(gm, style="onnx")
    with pytest.raises(ValueError, match="not calibrated"):
        to_amax(insert_quantizers(net))
    set_float_layers_(gm, {"stem"})
    assert not any(name.startswith("stem.") for name in to_amax(gm))
