"""Choice of the convolutions that stay float: the smallest set that meets the budget, robust to noise of small samples.

There are two problems. With `max_drop`: the lowest latency at which the score drops by at most this much. Without it:
the highest score that the budget (a number of layers, a share of latency) allows.

Layers become float in order of their measured sensitivity, per unit of latency if latency is part of the problem.
Scores of single layers never set the order: on some hundred images, most of them differ by less than their noise.
Scores only decide how many layers of the order become float:

- With `max_drop`, the fewest layers that hold it, found by bisection. If no number does, the order by sensitivity alone
  is tried.
- Without `max_drop`, or if neither order holds it, all layers that the budget allows, if their gain exceeds its noise
  (two standard errors, images paired). Bisection then drops the last layers as long as the score cannot be told from
  that of the whole set (one standard error). Otherwise none: float layers that gain nothing only cost time.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

SIGNIFICANT = 2.0
"""Standard errors that a difference must exceed to count as significant."""
NEGLIGIBLE = 0.01
"""The least sensitive layers, with this share of the total sensitivity together, are no candidates: however cheap, they
gain nothing."""


@dataclass(frozen=True)
class Layer:
    """A convolution that may stay float.

    Attributes:
        name: module path.
        sensitivity: loss of accuracy from quantizing it, in any unit that adds up over layers.
        cost: extra latency of leaving it float, as a share of the INT8 network's latency (or of its arithmetic).
    """

    name: str
    sensitivity: float
    cost: float


@dataclass(frozen=True)
class Budget:
    """Limits of the choice; None: no limit.

    Attributes:
        max_drop: largest loss of score against the float network.
        max_layers: largest number of float layers.
        max_slowdown: largest sum of their costs.

    Raises:
        ValueError: a negative limit.
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
    """A score, and the scores without each of several equal parts of the images (the jackknife)."""

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
    """Figure for the comparison of quantized networks; higher is better.

    If the score differs from the float network's by at most SIGNIFICANT standard errors, the result is the agreement,
    0..1. A significantly higher score gives at least 1, a significantly lower one at most 0.

    Args:
        score, reference: mAP in 0..1 of the quantized and of the float network on the same images.
        agreement: of their detections, 0..1.
    """
    gain = score.value - reference.value
    if abs(gain) <= SIGNIFICANT * score.noise_of_gain(reference):
        return agreement
    return score.value + math.copysign(1, gain)


@dataclass(frozen=True)
class Trial:
    """One verified set of float layers: its score, its gain over no float layer, and the gain's standard error."""

    float_layers: tuple[str, ...]
    score: float
    gain: float
    noise: float


@dataclass(frozen=True)
class Choice:
    """The layers to keep float, and the trials that led to them.

    Attributes:
        float_layers: chosen convolutions, without the prediction convolutions that are float anyway.
        score: result of `verify` for them.
        within_budget: whether `max_drop` is held; true if none is given.
        cost: sum of the layers' costs.
        trials: all verified sets, in order.
    """

    float_layers: tuple[str, ...]
    score: float
    within_budget: bool
    cost: float
    trials: tuple[Trial, ...]


def candidates(layers: Sequence[Layer], budget: Budget, *, ranked: bool = False) -> list[Layer]:
    """Layers in the order in which they become float, as far as the budget allows.

    Ordered by sensitivity per cost if latency is part of the problem (`max_drop` or `max_slowdown`), else by
    sensitivity. A layer that does not fit into the rest of `max_slowdown` is skipped. Costs count as at least a
    thousandth of the largest one, because measured costs scatter around zero.

    Args:
        ranked: the layers come in their order, and all of them are candidates.
    """
    floor = max((layer.cost for layer in layers), default=0.0) / 1000
    costs_matter = budget.max_drop is not None or budget.max_slowdown is not None

    def priority(layer: Layer) -> float:
        return layer.sensitivity / (max(layer.cost, floor) or 1.0) if costs_matter else layer.sensitivity

    chosen, spent = [], 0.0
    order = layers if ranked else sorted(_sensitive(layers), key=lambda layer: (-priority(layer), layer.name))
    for layer in order:
        cost = max(layer.cost, 0.0)
        if budget.max_slowdown is not None and spent + cost > budget.max_slowdown:
            continue
        chosen.append(layer)
        spent += cost
    return chosen[: budget.max_layers]


def _sensitive(layers: Sequence[Layer]) -> list[Layer]:
    """Layers without the least sensitive ones, see NEGLIGIBLE."""
    negligible, cumulated = NEGLIGIBLE * sum(layer.sensitivity for layer in layers), 0.0
    found = []
    for layer in sorted(layers, key=lambda layer: (layer.sensitivity, layer.name)):
        cumulated += layer.sensitivity
        if cumulated > negligible:
            found.append(layer)
    return found


def choose_float_layers(
    layers: Sequence[Layer],
    *,
    verify: Callable[[tuple[str, ...]], Score],
    float_score: float,
    budget: Budget,
    ranked: bool = False,
) -> Choice:
    """Choose the float layers for a budget, by the rules in the text of this module.

    Args:
        layers: convolutions that may stay float.
        verify: float layers -> score (mAP in 0..1) of the model with all others quantized. The jackknife parts must be
            the same in every call.
        float_score: score of the float model, 0..1.
        ranked: the layers come in the order in which they become float, whatever their sensitivities.
    """
    verified = _VerifiedSets(verify)
    order = _Order(candidates(layers, budget, ranked=ranked), verified)

    def held() -> bool:
        return _holds(order.score(0), float_score, budget) or _holds(order.score(), float_score, budget)

    if not held():
        # The cheap layers do not suffice; the most sensitive ones may.
        order = _Order(candidates(layers, replace(budget, max_drop=None), ranked=ranked), verified)
    count = order.fewest(lambda n: _holds(order.score(n), float_score, budget)) if held() else order.best()
    chosen = order.layers[:count]
    return Choice(
        float_layers=tuple(layer.name for layer in chosen),
        score=order.score(count).value,
        within_budget=held() or budget.max_drop is None,
        cost=sum(layer.cost for layer in chosen),
        trials=verified.trials(),
    )


def given_float_layers(
    layers: Sequence[Layer], *, verify: Callable[[tuple[str, ...]], Score], float_score: float, budget: Budget
) -> Choice:
    """Verify a given choice; arguments as in `choose_float_layers`."""
    names = tuple(layer.name for layer in layers)
    score = verify(names)
    held = budget.max_drop is None or _holds(score, float_score, budget)
    trial = Trial(names, score.value, 0.0, 0.0)
    return Choice(names, score.value, held, sum(layer.cost for layer in layers), (trial,))


def _holds(score: Score, float_score: float, budget: Budget) -> bool:
    # The tolerance, far below any mAP difference, lets a drop of exactly max_drop count as held.
    return budget.max_drop is not None and float_score - score.value <= budget.max_drop + 1e-9


class _VerifiedSets:
    """Scores of sets of float layers; no set is verified twice."""

    def __init__(self, verify: Callable[[tuple[str, ...]], Score]) -> None:
        self.verify = verify
        self.scores: dict[tuple[str, ...], Score] = {}

    def score(self, names: tuple[str, ...]) -> Score:
        if names not in self.scores:
            self.scores[names] = self.verify(names)
        return self.scores[names]

    def trials(self) -> tuple[Trial, ...]:
        none = self.score(())
        return tuple(
            Trial(names, score.value, score.value - none.value, score.noise_of_gain(none))
            for names, score in self.scores.items()
        )


class _Order:
    """An order of layers, of which the first ones become float."""

    def __init__(self, layers: Sequence[Layer], verified: _VerifiedSets) -> None:
        self.layers, self.verified = tuple(layers), verified

    def score(self, count: int | None = None) -> Score:
        """Score with the first `count` layers float; default all."""
        return self.verified.score(tuple(layer.name for layer in self.layers[:count]))

    def fewest(self, enough: Callable[[int], bool]) -> int:
        """Smallest count that is enough, by bisection: scores should rise along the order. 0 or all must be enough."""
        if enough(0):
            return 0
        low, high = 0, len(self.layers)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if enough(middle) else (middle, high)
        return high

    def best(self) -> int:
        """All layers if their gain is significant, less the last ones that make no difference; otherwise none."""
        none, every = self.score(0), self.score()
        if every.value - none.value <= SIGNIFICANT * every.noise_of_gain(none):
            return 0

        def as_good(count: int) -> bool:
            return count > 0 and every.value - self.score(count).value <= every.noise_of_gain(self.score(count))

        return self.fewest(as_good)


def significant_drop(
    drops: Mapping[str, float], noise: Mapping[str, float], smooth: Mapping[str, float]
) -> dict[str, float]:
    """Sensitivities from measured drops of score if they are significant, from a smoother measure otherwise.

    The smooth measure is scaled by its median ratio to the significant drops and limited to SIGNIFICANT standard errors
    of the layer's drop. If no drop is significant, the smooth measure is returned as it is.

    Args:
        drops: layer -> loss of score when only this layer is quantized.
        noise: layer -> standard error of the drop.
        smooth: layer -> any measure with little noise, in any unit.

    Returns: layer -> sensitivity in units of `drops`.
    """
    significant = [name for name, drop in drops.items() if drop > SIGNIFICANT * noise[name] and smooth[name] > 0]
    if not significant:
        return dict(smooth)
    unit = statistics.median(drops[name] / smooth[name] for name in significant)
    return {
        name: drop if name in significant else min(unit * smooth[name], SIGNIFICANT * noise[name])
        for name, drop in drops.items()
    }
