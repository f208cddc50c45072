"""Which convolutions stay float: the smallest set that does what is asked, told apart from the noise of small samples.

Two problems. With `max_drop`: the lowest latency whose score drops by at most so much. Without: the highest score that
the budget (a number of layers, a share of latency) allows.

The order in which layers become float never comes from scores of single layers, because on some hundred images most of
these differ by less than their noise. It comes from the measured harm of each layer, per unit of latency wherever
latency is part of the problem. Scores only decide how far to go along that order:

- with `max_drop`, the shortest part of the order that holds it, found by bisection;
- without it, or where no part holds it, all that the budget allows, if that gains more than the noise of the gain
  (two standard errors, images paired); otherwise nothing, because float layers that gain nothing only cost time. What
  gains is then shortened by bisection to what cannot be told from the whole (one standard error).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

SURE = 2.0
"""Standard errors that a gain must exceed to be believed."""
NEGLIGIBLE = 0.01
"""Layers with less than this share of the whole harm are no candidates: cheap as they are, they mend nothing."""


@dataclass(frozen=True)
class Layer:
    """A convolution as the choice sees it.

    Attributes:
        name: module path.
        harm: what quantizing it costs in accuracy, in any unit that adds up over layers.
        cost: what leaving it float costs, as a share of the whole INT8 network's latency (or of its arithmetic).
    """

    name: str
    harm: float
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

    By harm per cost if latency is in the problem (`max_drop` or `max_slowdown`), else by harm. A layer that no longer
    fits into `max_slowdown` is passed over. Costs below a thousandth of the largest count as that: measured ones scatter
    around zero.
    """
    total, floor = sum(layer.harm for layer in layers), max((layer.cost for layer in layers), default=0.0) / 1000
    counting = [layer for layer in layers if layer.harm > NEGLIGIBLE * total]
    costs_matter = budget.max_drop is not None or budget.max_slowdown is not None

    def merit(layer: Layer) -> float:
        return layer.harm / (max(layer.cost, floor) or 1.0) if costs_matter else layer.harm

    taken, spent = [], 0.0
    for layer in sorted(counting, key=lambda layer: (-merit(layer), layer.name)):
        cost = max(layer.cost, 0.0)
        if budget.max_slowdown is not None and spent + cost > budget.max_slowdown:
            continue
        taken.append(layer)
        spent += cost
    return taken[: budget.max_layers]


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
    order = candidates(layers, budget)
    trials = _Trials([layer.name for layer in order], verify)

    def holds(count: int) -> bool:
        # A tolerance far below any mAP difference, so that a drop of exactly max_drop counts as held.
        return budget.max_drop is not None and float_score - trials.score(count).value <= budget.max_drop + 1e-9

    held = holds(0) or holds(len(order))
    count = trials.fewest(holds) if held else trials.best()
    chosen = order[:count]
    return Choice(
        float_layers=tuple(layer.name for layer in chosen),
        score=trials.score(count).value,
        within_budget=held or budget.max_drop is None,
        cost=sum(layer.cost for layer in chosen),
        trials=tuple(trials.listed()),
    )


class _Trials:
    """Verified beginnings of an order; none is verified twice."""

    def __init__(self, order: Sequence[str], verify: Callable[[tuple[str, ...]], Score]) -> None:
        self.order, self.verify = tuple(order), verify
        self.scores: dict[int, Score] = {}

    def score(self, count: int) -> Score:
        """Score with the first `count` layers float."""
        if count not in self.scores:
            self.scores[count] = self.verify(self.order[:count])
        return self.scores[count]

    def fewest(self, enough: Callable[[int], bool]) -> int:
        """Smallest count that is enough, by bisection: scores are taken to rise along the order. All must be enough."""
        low, high = -1, len(self.order)
        if enough(0):
            return 0
        low = 0
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if enough(middle) else (middle, high)
        return high

    def best(self) -> int:
        """All layers if they gain for sure, less those that make no difference; otherwise none."""
        none, every = self.score(0), self.score(len(self.order))
        if every.value - none.value <= SURE * every.noise_of_gain(none):
            return 0

        def as_good(count: int) -> bool:
            return every.value - self.score(count).value <= every.noise_of_gain(self.score(count)) and count > 0

        return self.fewest(as_good)

    def listed(self) -> list[Trial]:
        none = self.score(0)
        return [
            Trial(self.order[:count], score.value, score.value - none.value, score.noise_of_gain(none))
            for count, score in self.scores.items()
        ]


def shares(costs: Mapping[str, float], whole: float) -> dict[str, float]:
    """Costs of layers as shares of the whole INT8 latency; raises ValueError if that is not positive."""
    if whole <= 0:
        raise ValueError(f"the whole INT8 network costs {whole}; it has to be positive")
    return {name: cost / whole for name, cost in costs.items()}
