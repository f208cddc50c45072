"""Which convolutions stay float: the smallest set that does what is asked, told apart from the noise of small samples.

Two problems. With `max_drop`: the lowest latency whose score drops by at most so much. Without: the highest score that
the budget (a number of layers, a share of latency) allows.

The order in which layers become float never comes from scores of single layers, because on some hundred images most of
these differ by less than their noise. It comes from the measured sensitivity of each layer, per unit of latency wherever
latency is part of the problem. Scores only decide how far to go along that order:

- with `max_drop`, the shortest part of the order that holds it, found by bisection; where none does, of the order by
  sensitivity alone;
- without it, or where neither holds it, all that the budget allows, if that gains more than the noise of the gain
  (two standard errors, images paired); otherwise nothing, because float layers that gain nothing only cost time. What
  gains is then shortened by bisection to what cannot be told from the whole (one standard error).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

SURE = 2.0
"""Standard errors that a gain must exceed to be believed."""
NEGLIGIBLE = 0.01
"""The mildest layers, with this share of the whole sensitivity together, are no candidates: cheap as they are, they mend
nothing."""


@dataclass(frozen=True)
class Layer:
    """A convolution as the choice sees it.

    Attributes:
        name: module path.
        sensitivity: what quantizing it costs in accuracy, in any unit that adds up over layers.
        cost: what leaving it float costs, as a share of the whole INT8 network's latency (or of its arithmetic).
    """

    name: str
    sensitivity: float
    cost: float


@dataclass(frozen=True)
class Budget:
    """What is asked of the choice; None: no limit.

    Attributes:
        max_drop: tolerated loss of score against the float network.
        max_layers: most layers that may be float.
        max_slowdown: largest sum of their costs.
    """

    max_drop: float | None = None
    max_layers: int | None = None
    max_slowdown: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and value < 0:
                raise ValueError(f"{name} is {value}; a budget may not be negative")


@dataclass(frozen=True)
class Score:
    """A score and what it becomes when each of several equal parts of the images is left out (the jackknife)."""

    value: float
    without: tuple[float, ...] = ()

    def noise_of_gain(self, other: Score) -> float:
        """Standard error of `self.value - other.value`, both measured on the same images; 0 without parts."""
        gains = [a - b for a, b in zip(self.without, other.without, strict=True)]
        if len(gains) < 2:
            return 0.0
        mean = sum(gains) / len(gains)
        return math.sqrt((len(gains) - 1) / len(gains) * sum((gain - mean) ** 2 for gain in gains))


def selection_score(score: Score, reference: Score, *, agreement: float) -> float:
    """What quantized networks are compared by: higher is better.

    A score that differs from the float network's by less than SURE standard errors says nothing, and the network that
    agrees with the float one most is the best of such. A surely higher score is better than these, a surely lower one
    worse.

    Args:
        score, reference: mAP of the quantized and of the float network on the same images.
        agreement: of their detections, 0..1.
    """
    gain = score.value - reference.value
    if abs(gain) <= SURE * score.noise_of_gain(reference):
        return agreement
    return score.value + math.copysign(1, gain)


@dataclass(frozen=True)
class Trial:
    """One verified set: these layers float, all others quantized; its gain over none, and the gain's standard error."""

    float_layers: tuple[str, ...]
    score: float
    gain: float
    noise: float


@dataclass(frozen=True)
class Choice:
    """The layers to keep float, and how it came to that.

    Attributes:
        float_layers: chosen convolutions; prediction convolutions, float anyway, are not among them.
        score: what `verify` gave for them.
        within_budget: whether `max_drop` is held; true where none is given.
        cost: sum of the layers' costs.
        trials: everything that was verified, in order.
    """

    float_layers: tuple[str, ...]
    score: float
    within_budget: bool
    cost: float
    trials: tuple[Trial, ...]


def candidates(layers: Sequence[Layer], budget: Budget) -> list[Layer]:
    """Layers in the order in which they would become float, as far as the budget allows.

    By sensitivity per cost if latency is in the problem (`max_drop` or `max_slowdown`), else by sensitivity. A layer that no longer
    fits into `max_slowdown` is passed over. Costs below a thousandth of the largest count as that: measured ones
    scatter around zero.
    """
    floor = max((layer.cost for layer in layers), default=0.0) / 1000
    costs_matter = budget.max_drop is not None or budget.max_slowdown is not None

    def merit(layer: Layer) -> float:
        return layer.sensitivity / (max(layer.cost, floor) or 1.0) if costs_matter else layer.sensitivity

    taken, spent = [], 0.0
    for layer in sorted(_sensitive(layers), key=lambda layer: (-merit(layer), layer.name)):
        cost = max(layer.cost, 0.0)
        if budget.max_slowdown is not None and spent + cost > budget.max_slowdown:
            continue
        taken.append(layer)
        spent += cost
    return taken[: budget.max_layers]


def _sensitive(layers: Sequence[Layer]) -> list[Layer]:
    """Layers without the mild ones, see NEGLIGIBLE."""
    allowed, milder = NEGLIGIBLE * sum(layer.sensitivity for layer in layers), 0.0
    found = []
    for layer in sorted(layers, key=lambda layer: (layer.sensitivity, layer.name)):
        milder += layer.sensitivity
        if milder > allowed:
            found.append(layer)
    return found


def choose_float_layers(
    layers: Sequence[Layer], *, verify: Callable[[tuple[str, ...]], Score], float_score: float, budget: Budget
) -> Choice:
    """Solve the problem that the budget states, by the rule of this module's text.

    Args:
        layers: convolutions that may stay float.
        verify: float layers -> score (mAP in 0..1) of the model with all others quantized; the parts that are left out
            are the same on every call.
        float_score: score of the float model.
    """
    known = _Known(verify)
    trials = _Trials(candidates(layers, budget), known)

    def held() -> bool:
        return _holds(trials.score(0), float_score, budget) or _holds(trials.score(), float_score, budget)

    if not held():
        # What is cheap per layer does not do; the most harmful ones may.
        trials = _Trials(candidates(layers, replace(budget, max_drop=None)), known)
    count = trials.fewest(lambda n: _holds(trials.score(n), float_score, budget)) if held() else trials.best()
    chosen = trials.order[:count]
    return Choice(
        float_layers=tuple(layer.name for layer in chosen),
        score=trials.score(count).value,
        within_budget=held() or budget.max_drop is None,
        cost=sum(layer.cost for layer in chosen),
        trials=known.listed(),
    )


def given_float_layers(
    layers: Sequence[Layer], *, verify: Callable[[tuple[str, ...]], Score], float_score: float, budget: Budget
) -> Choice:
    """A choice that somebody else has made, verified as the others are."""
    names = tuple(layer.name for layer in layers)
    score = verify(names)
    held = budget.max_drop is None or _holds(score, float_score, budget)
    trial = Trial(names, score.value, 0.0, 0.0)
    return Choice(names, score.value, held, sum(layer.cost for layer in layers), (trial,))


def _holds(score: Score, float_score: float, budget: Budget) -> bool:
    # A tolerance far below any mAP difference, so that a drop of exactly max_drop counts as held.
    return budget.max_drop is not None and float_score - score.value <= budget.max_drop + 1e-9


class _Known:
    """Verified sets; none is verified twice."""

    def __init__(self, verify: Callable[[tuple[str, ...]], Score]) -> None:
        self.verify = verify
        self.scores: dict[tuple[str, ...], Score] = {}

    def score(self, names: tuple[str, ...]) -> Score:
        if names not in self.scores:
            self.scores[names] = self.verify(names)
        return self.scores[names]

    def listed(self) -> tuple[Trial, ...]:
        none = self.score(())
        return tuple(
            Trial(names, score.value, score.value - none.value, score.noise_of_gain(none))
            for names, score in self.scores.items()
        )


class _Trials:
    """Beginnings of an order of layers."""

    def __init__(self, order: Sequence[Layer], known: _Known) -> None:
        self.order, self.known = tuple(order), known

    def score(self, count: int | None = None) -> Score:
        """Score with the first `count` layers float; default all."""
        return self.known.score(tuple(layer.name for layer in self.order[:count]))

    def fewest(self, enough: Callable[[int], bool]) -> int:
        """Smallest count that is enough, by bisection (scores are taken to rise along the order); 0 or all must be."""
        if enough(0):
            return 0
        low, high = 0, len(self.order)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if enough(middle) else (middle, high)
        return high

    def best(self) -> int:
        """All layers if they gain for sure, less those that make no difference; otherwise none."""
        none, every = self.score(0), self.score()
        if every.value - none.value <= SURE * every.noise_of_gain(none):
            return 0

        def as_good(count: int) -> bool:
            return count > 0 and every.value - self.score(count).value <= every.noise_of_gain(self.score(count))

        return self.fewest(as_good)


def significant_drop(
    drops: Mapping[str, float], noise: Mapping[str, float], smooth: Mapping[str, float]
) -> dict[str, float]:
    """Harm from measured drops of score where they exceed their noise, from a smoother measure elsewhere.

    Args:
        drops: layer -> score lost when it alone is quantized.
        noise: layer -> standard error of that.
        smooth: layer -> any measure with little noise, in any unit.

    Returns: layer -> sensitivity in units of `drops`. The smooth measure is scaled by its median ratio to the drops that are
    sure, and cut at what the layer's own noise could hide. Where no drop is sure, it is the smooth measure as it is.
    """
    sure = [name for name, drop in drops.items() if drop > SURE * noise[name] and smooth[name] > 0]
    if not sure:
        return dict(smooth)
    unit = statistics.median(drops[name] / smooth[name] for name in sure)
    return {
        name: drop if name in sure else min(unit * smooth[name], SURE * noise[name]) for name, drop in drops.items()
    }
