"""Layer ranking equals quantizing one layer at a time, and float layers are chosen within the budget."""

from __future__ import annotations

import pytest
import torch

from yolov6core.quant.insert import convolution_names, set_float_layers_, state_of
from yolov6core.quant.sensitivity import choose_float_layers, rank_layers


def test_scores_equal_a_model_with_one_quantized_layer(relu_net, calibrated, images):
    gm = calibrated(relu_net.requires_grad_(False))
    state, expected = state_of(gm), [output.double() for output in relu_net(images())]
    scores = {score.name: score for score in rank_layers(gm, images(4).split(2)[:1])}
    assert state_of(gm) == state
    for name in ("stem", "dilated", "fuse", "neck"):  # depthwise would quantize the skip branch beside it as well
        outputs = set_float_layers_(gm, [n for n in convolution_names(gm) if n != name])(images())
        for output, reference, decibels in zip(outputs, expected, scores[name].outputs_db, strict=True):
            noise = (output.double() - reference).square().sum()
            assert decibels == pytest.approx(float(10 * torch.log10(reference.square().sum() / noise)), abs=1e-3)


def test_the_damaged_layer_ranks_worst(relu_net, calibrated, images):
    with torch.no_grad():
        relu_net.down.weight[:, 0] *= 300  # one wild input channel ruins the scale of every filter
        relu_net.fuse.weight[0] /= 300
        relu_net.fuse.bias[0] /= 300
    scores = rank_layers(calibrated(relu_net), [images()])
    assert scores[0].name == "down"
    assert sum(score.macs for score in scores) < 1.0, "prediction convolutions have their share too"
    assert [score.sqnr_db for score in scores] == sorted(score.sqnr_db for score in scores)


def test_ranking_runs_in_place_activations_on_fresh_values(net, calibrated, images):
    gm = calibrated(net)
    assert rank_layers(gm, [images()]) == rank_layers(gm, [images()])
    with pytest.raises(ValueError, match="at least one image"):
        rank_layers(gm, [])


ORDER = ["a", "b", "c", "d"]
GAIN = {"a": 0.01, "b": 0.05, "c": 0.03, "d": 0.0}


def verify(layers: tuple[str, ...]) -> float:
    return 0.4 + sum(GAIN[name] for name in layers)


@pytest.mark.parametrize(
    ("max_drop", "max_layers", "recheck", "layers", "within"),
    [
        (0.1, 4, 0, (), True),  # nothing need stay float
        (0.05, 4, 0, ("a", "b"), True),
        (0.05, 4, 3, ("b",), True),  # rechecking puts b first
        (0.02, 4, 3, ("b", "c"), True),
        (0.0, 2, 3, ("b", "c"), False),  # the best of what the budget allows
        (0.0, 0, 3, (), False),
        (0.0, 9, 0, ("a", "b", "c"), False),
        (None, 2, 3, ("b", "c"), True),  # no budget of mAP: the best that the layers allow
        (None, 9, 0, ("a", "b", "c"), True),  # d gives nothing back
    ],
)
def test_the_fewest_layers_within_the_budget(max_drop, max_layers, recheck, layers, within):
    choice = choose_float_layers(
        ORDER, verify=verify, float_score=0.5, max_drop=max_drop, max_layers=max_layers, recheck=recheck
    )
    assert set(choice.float_layers) == set(layers) and choice.within_budget == within
    assert choice.score == pytest.approx(verify(layers))
    verified = [trial.float_layers for trial in choice.trials]
    assert len(verified) == len(set(verified)), "no choice is verified twice"


def test_a_negative_budget_is_refused():
    with pytest.raises(ValueError, match="negative"):
        choose_float_layers(ORDER, verify=verify, float_score=0.5, max_drop=-0.1, max_layers=1)
