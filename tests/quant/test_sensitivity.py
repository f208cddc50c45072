"""The fast measure estimates the real effect of quantizing one layer; the exact one quantizes that layer only."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from yolov6core.quant.insert import convolution_names, quantizable_names, quantizers_off, set_float_layers_, state_of
from yolov6core.quant.sensitivity import (
    OneLayer,
    detection_readout,
    exact_results,
    fast_sensitivity,
    flat_tensors,
    layer_macs,
    relative_readout,
    spearman,
)


def measured_sensitivity(gm, names: list[str], images: Tensor) -> dict[str, float]:
    """The quantity that `fast_sensitivity` estimates, measured by quantizing one layer after the other."""
    with torch.no_grad(), quantizers_off(gm):
        reference = gm(images)
    sensitivity = {}
    for name in names:
        with torch.no_grad():
            outputs = OneLayer(gm, name)(images)
        costs = torch.zeros(len(images), dtype=torch.float64)
        for output, (value, weight) in zip(outputs, relative_readout(reference), strict=True):
            costs += ((output - value) * weight).double().square().flatten(1).sum(1)
        sensitivity[name] = float(costs.sqrt().mean().square())
    return sensitivity


def test_one_layer_equals_a_model_with_all_others_float(relu_net, calibrated, images):
    gm = calibrated(relu_net.requires_grad_(False))
    state = state_of(gm)
    alone = {name: OneLayer(gm, name)(images()) for name in ("stem", "dilated", "fuse", "neck")}
    assert state_of(gm) == state
    for name, outputs in alone.items():  # depthwise would quantize the skip branch beside it as well
        expected = set_float_layers_(gm, [n for n in convolution_names(gm) if n != name])(images())
        for ours, theirs in zip(outputs, expected, strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.slow
def test_the_fast_measure_estimates_the_real_error(relu_net, calibrated, images):
    gm = calibrated(relu_net)
    names = quantizable_names(gm)
    fast = fast_sensitivity(gm, images(8).split(4), probes=64)
    real = measured_sensitivity(gm, names, images(8))
    assert list(fast) == names
    for name in names:
        # ReLUs near zero switch, which a derivative cannot see; the probes scatter by 5 %
        assert fast[name] == pytest.approx(real[name], rel=0.35), name
    assert spearman(list(fast.values()), list(real.values())) > 0.9


@pytest.mark.slow
def test_few_probes_rank_as_many_do(net, calibrated, images):
    gm = calibrated(net)
    before = [(name, parameter.clone()) for name, parameter in gm.state_dict().items()]
    few, many = (fast_sensitivity(gm, images(16).split(8), probes=count) for count in (2, 32))
    assert spearman(list(few.values()), list(many.values())) > 0.85
    assert fast_sensitivity(gm, images(16).split(8)) == few, "the probes are seeded"
    for name, value in before:
        torch.testing.assert_close(gm.state_dict()[name], value, rtol=0, atol=0, equal_nan=True)


def test_the_damaged_layer_ranks_worst(relu_net, calibrated, images):
    with torch.no_grad():
        relu_net.down.weight[:, 0] *= 300  # one outlier input channel sets the scale of every filter
        relu_net.fuse.weight[0] /= 300
        relu_net.fuse.bias[0] /= 300
    sensitivity = fast_sensitivity(calibrated(relu_net), [images()])
    assert max(sensitivity, key=sensitivity.get) == "down"


def test_one_outlier_image_counts_as_one(relu_net, calibrated, images):
    gm = calibrated(relu_net)
    usual, outlier = images(16), images(1, seed=9) * 30  # far beyond every range: all layers clip
    alone, without = fast_sensitivity(gm, [outlier]), fast_sensitivity(gm, [usual])
    together = fast_sensitivity(gm, [usual, outlier])
    assert len(together) == len(alone) == len(without) > 5
    for name, sensitivity in together.items():
        assert sensitivity < alone[name] / 50 or sensitivity < 9 * without[name], name


class Other(nn.Module):
    """A detector of another form: a shared convolution, a dictionary of outputs, transposed and float convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.up, self.act = nn.ConvTranspose2d(8, 4, 2, stride=2), nn.Hardswish(inplace=True)
        self.unused, self.head = nn.Conv2d(8, 8, 1), nn.Conv2d(4, 6, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.act(self.first(x))
        deep = self.act(self.shared(self.act(self.shared(x))))
        return {"maps": self.head(self.up(deep)).sigmoid(), "deep": [deep.mean((2, 3)) * 3]}


def test_any_traceable_network_is_measured(calibrated, images):
    gm = calibrated(Other().eval(), quantize_predictions=True)
    sensitivity = fast_sensitivity(gm, [images()])
    assert list(sensitivity) == ["first", "shared", "up.conv", "head"] and all(
        value > 0 for value in sensitivity.values()
    )
    assert len(flat_tensors(OneLayer(gm, "shared")(images()))) == 2
    macs = layer_macs(gm, images())
    assert sum(macs.values()) == pytest.approx(1.0) and macs["shared"] == pytest.approx(2 * 8 / 3 * macs["first"])


def test_a_layer_that_reaches_no_counted_output_has_no_sensitivity(net, calibrated, images):
    gm = calibrated(net, quantize_predictions=True)
    sensitivity = fast_sensitivity(gm, [images()], readout=lambda raw: relative_readout(raw[0]))
    assert sensitivity["reg_pred"] == 0.0 and sensitivity["cls_pred"] > 0
    with pytest.raises(ValueError, match="at least one image"):
        fast_sensitivity(gm, [])


def test_detections_count_by_information_and_confidence():
    boxes = torch.tensor([[[0.0, 0, 10, 20], [0, 0, 10, 20]]])
    scores = torch.tensor([[[0.5, 0.1], [0.01, 0.02]]])
    (values, information), (sides, weight) = detection_readout(boxes, scores)
    assert values is scores and sides is boxes
    torch.testing.assert_close(information, (scores * (1 - scores)).rsqrt())
    torch.testing.assert_close(weight[0, :, 0] / weight[0, :, 1], torch.tensor([2.0, 2.0]))
    assert float(weight[0, 0, 0] / weight[0, 1, 0]) == pytest.approx(math.sqrt(0.5 / 0.02))


def test_exact_results_are_kept_and_continued(net, calibrated):
    gm, seen, kept = calibrated(net), [], []

    def evaluate(network: nn.Module) -> float:
        seen.append(network)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return float(len(seen))

    names = ["stem", "fuse", "down"]
    with pytest.raises(KeyboardInterrupt):
        exact_results(gm, names, evaluate=evaluate, keep=lambda results: kept.append(dict(results)))
    assert kept[-1] == {"stem": 1.0, "fuse": 2.0}
    assert exact_results(gm, names, evaluate=lambda network: 7.0, known=kept[-1]) == kept[-1] | {"down": 7.0}


def test_rank_correlation():
    assert spearman([1, 2, 3, 4], [10, 20, 30, 90]) == pytest.approx(1.0)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1.0)
    # by hand: ranks 1, 2.5, 2.5, 4 against 2, 1, 3, 4
    assert spearman([1, 5, 5, 9], [2, 1, 3, 4]) == pytest.approx(3 / math.sqrt(4.5 * 5))
    assert math.isnan(spearman([1, 1], [1, 2]))
    with pytest.raises(ValueError, match="one length"):
        spearman([1], [1])
