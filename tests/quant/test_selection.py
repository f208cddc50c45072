"""Float layers meet the budget at the lowest cost, and noise chooses no layer."""

from __future__ import annotations

import random

import pytest

from yolov6core.quant.selection import (
    Budget,
    Layer,
    Score,
    candidates,
    choose_float_layers,
    given_float_layers,
    selection_score,
    significant_drop,
)

LAYERS = [
    Layer("a", sensitivity=0.050, cost=0.10),
    Layer("b", sensitivity=0.030, cost=0.01),
    Layer("c", sensitivity=0.015, cost=0.02),
    Layer("d", sensitivity=0.004, cost=0.02),
    Layer("e", sensitivity=0.0001, cost=0.00001),
]
SENSITIVITY = {layer.name: layer.sensitivity for layer in LAYERS}
FLOAT = 0.5


class Verifier:
    """Scores from which each layer takes its sensitivity, with ten jackknife parts that depend on the layers only."""

    def __init__(self, noise: float = 0.0, gain: float = 1.0, shift: float = 0.0) -> None:
        self.noise, self.gain, self.shift, self.seen = noise, gain, shift, []

    def __call__(self, layers: tuple[str, ...]) -> Score:
        self.seen.append(layers)
        rng = random.Random(",".join(layers))
        lost = sum(sensitivity for name, sensitivity in SENSITIVITY.items() if name not in layers)
        value = FLOAT - self.gain * lost + (self.shift if layers else 0.0)
        return Score(value, tuple(value + rng.gauss(0, self.noise) for _ in range(10)))


@pytest.mark.parametrize(
    ("budget", "order"),
    [
        (Budget(max_layers=3), "abc"),  # a count only: by sensitivity
        (Budget(max_drop=0.01), "bcad"),  # latency counts: by sensitivity per cost; e gains nothing
        (Budget(max_slowdown=0.04), "bc"),  # a and d do not fit any more
        (Budget(max_slowdown=0.111), "bcd"),  # b and a would gain more, but the layers before a leave no room for it
        (Budget(max_drop=0.0, max_layers=2), "bc"),
        (Budget(max_layers=0), ""),
    ],
)
def test_the_order_serves_the_problem(budget, order):
    assert "".join(layer.name for layer in candidates(LAYERS, budget)) == order


@pytest.mark.parametrize(
    ("budget", "order"),
    [
        (Budget(max_layers=3), "edc"),
        (Budget(max_drop=0.01), "edcba"),  # also what is not sensitive, and whatever it costs
        (Budget(max_slowdown=0.111), "edcb"),  # a does not fit any more
    ],
)
def test_a_ranking_from_elsewhere_keeps_its_order(budget, order):
    layers = LAYERS[::-1]
    assert "".join(layer.name for layer in candidates(layers, budget, ranked=True)) == order
    choice = choose_float_layers(layers, verify=Verifier(), float_score=FLOAT, budget=budget, ranked=True)
    assert order.startswith("".join(choice.float_layers)) and choice.float_layers


@pytest.mark.parametrize(
    ("max_drop", "max_layers", "chosen", "within"),
    [
        (0.1, None, "", True),  # no layer need stay float
        (0.06, None, "bc", True),
        (0.02, None, "bca", True),
        (0.02, 2, "ab", True),  # two cheap layers do not hold it, the two most sensitive do
        (0.005, 2, "ab", False),  # no two layers hold it: the best pair
        (0.0, 0, "", False),
    ],
)
def test_the_lowest_latency_that_holds_the_drop(max_drop, max_layers, chosen, within):
    verify = Verifier()
    choice = choose_float_layers(LAYERS, verify=verify, float_score=FLOAT, budget=Budget(max_drop, max_layers))
    assert "".join(choice.float_layers) == chosen and choice.within_budget == within
    assert choice.score == pytest.approx(verify(tuple(chosen)).value)
    assert choice.cost == pytest.approx(sum(layer.cost for layer in LAYERS if layer.name in chosen))
    assert within == (FLOAT - choice.score <= max_drop + 1e-9)
    assert len({trial.float_layers for trial in choice.trials}) == len(choice.trials), "no set is verified twice"


def test_all_layers_of_the_budget_if_their_gain_is_significant():
    choice = choose_float_layers(LAYERS, verify=Verifier(noise=1e-5), float_score=FLOAT, budget=Budget(max_layers=3))
    assert choice.float_layers == ("a", "b", "c") and choice.within_budget


def test_layers_that_make_no_difference_are_left_out():
    choice = choose_float_layers(LAYERS, verify=Verifier(noise=0.003), float_score=FLOAT, budget=Budget(max_layers=4))
    assert choice.float_layers in (("a", "b"), ("a", "b", "c")), "d gains less than the noise"


@pytest.mark.parametrize("shift", [0.0, 0.004])
def test_noise_chooses_no_layer(shift):
    verify = Verifier(noise=0.01, gain=0.01, shift=shift)  # true gains of 0.1 points in a noise of 1 point
    choice = choose_float_layers(LAYERS, verify=verify, float_score=FLOAT, budget=Budget(max_layers=4))
    assert choice.float_layers == () and choice.cost == 0
    whole = next(trial for trial in choice.trials if trial.float_layers)
    assert 0 < whole.gain < 2 * whole.noise
    assert verify.seen == [(), ("a", "b", "c", "d")], "two evaluations suffice"


def test_few_evaluations_are_needed():
    layers = [Layer(f"l{i:03}", sensitivity=1 - i / 200, cost=1.0) for i in range(128)]
    seen = []

    def verify(names: tuple[str, ...]) -> Score:
        seen.append(names)
        return Score(len(names) / 1000)

    choice = choose_float_layers(layers, verify=verify, float_score=0.128, budget=Budget(max_drop=0.1))
    assert len(choice.float_layers) == 28 and len(seen) <= 10


def test_the_jackknife_estimates_the_noise_of_a_gain():
    # left-out means of n values x: their jackknife error is the standard error of the mean of x
    x = [0.3, -0.1, 0.2, 0.5]
    without = tuple((sum(x) - value) / 3 for value in x)
    mean = sum(x) / 4
    expected = (sum((value - mean) ** 2 for value in x) / 3 / 4) ** 0.5
    assert Score(mean, without).noise_of_gain(Score(0.0, (0.0,) * 4)) == pytest.approx(expected)
    assert Score(0.4).noise_of_gain(Score(0.3)) == 0.0


def test_a_given_choice_is_verified_only():
    choice = given_float_layers(LAYERS[1:3], verify=Verifier(), float_score=FLOAT, budget=Budget(max_drop=0.01))
    assert choice.float_layers == ("b", "c") and not choice.within_budget and len(choice.trials) == 1


def test_a_negative_budget_is_refused():
    with pytest.raises(ValueError, match="max_drop is -0.1"):
        Budget(max_drop=-0.1)


def test_drops_within_their_noise_follow_the_smooth_measure():
    drops = {"a": 0.05, "b": 0.02, "c": -0.01, "d": 0.004}
    noise = dict.fromkeys(drops, 0.003)
    smooth = {"a": 5.0, "b": 2.0, "c": 0.5, "d": 0.1}
    sensitivity = significant_drop(drops, noise, smooth)
    assert (sensitivity["a"], sensitivity["b"]) == (0.05, 0.02)
    assert sensitivity["c"] == pytest.approx(0.005) and sensitivity["d"] == pytest.approx(0.001)
    assert significant_drop(dict.fromkeys(drops, 0.0), noise, smooth) == smooth
    assert significant_drop(drops, noise, smooth | {"c": 5.0})["c"] == pytest.approx(0.006), (
        "limited to two standard errors"
    )


def test_networks_on_par_with_float_are_compared_by_agreement():
    reference = Score(0.50, (0.49, 0.51, 0.50, 0.50))
    below, above = Score(0.49, (0.47, 0.51, 0.48, 0.50)), Score(0.51, (0.51, 0.51, 0.52, 0.50))
    assert selection_score(below, reference, agreement=0.97) == 0.97
    assert selection_score(above, reference, agreement=0.95) == 0.95
    lower, higher = Score(0.40, (0.39, 0.41, 0.40, 0.40)), Score(0.60, (0.59, 0.61, 0.60, 0.60))
    assert (
        selection_score(lower, reference, agreement=1.0)
        < 0
        <= 0.95
        < 1
        < selection_score(higher, reference, agreement=0.1)
    )
    worse = Score(0.30, (0.29, 0.31, 0.30, 0.30))
    assert selection_score(worse, reference, agreement=1.0) < selection_score(lower, reference, agreement=0.0)
