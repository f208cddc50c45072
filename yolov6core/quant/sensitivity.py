"""Which layers suffer from quantization, and which to keep float so that a stated accuracy is held.

Ranking is cheap: one layer at a time is quantized (weights and input) and the noise on the network's raw outputs is
measured on a few images, no labels needed. Only the layers that may be chosen are then verified by the real measure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from yolov6core.quant.graph_ops import Kind, kind_of
from yolov6core.quant.insert import QuantizedModel, convolution_names, quantizers_off, state_of


@dataclass(frozen=True)
class LayerScore:
    """What quantizing one convolution alone does to the raw outputs.

    Attributes:
        name: module path.
        sqnr_db: signal-to-noise ratio in decibels, mean over the outputs; lower is worse.
        outputs_db: the same for each output (class logits, distances).
        macs: share of the network's multiply-accumulates, 0..1: what a float layer costs.
    """

    name: str
    sqnr_db: float
    outputs_db: tuple[float, ...]
    macs: float


class _OneLayer(fx.Interpreter):
    """The float network with one convolution quantized. Values that do not depend on it are taken from a float run."""

    def __init__(self, gm: QuantizedModel) -> None:
        super().__init__(gm, garbage_collect_values=False)
        self.kinds = {node: kind_of(node, gm) for node in gm.graph.nodes}
        self.group_of = state_of(gm).groups.group_of
        self.layer = ""

    def run_node(self, n: fx.Node) -> Any:
        if self.kinds[n] is not Kind.CONV or str(n.target) != self.layer:
            return super().run_node(n)
        value = n.all_input_nodes[0]
        if self.kinds[value] is Kind.RANGE:
            value = value.all_input_nodes[0]
        conv, limits = self.module.get_submodule(self.layer), self.module.ranges[self.group_of[value.name]]
        before = conv.active, conv.enabled
        conv.active = conv.enabled = limits.enabled = True
        try:
            return conv(limits(self.env[value]))
        finally:
            (conv.active, conv.enabled), limits.enabled = before, False

    def float_run(self, images: Tensor) -> dict[fx.Node, Any]:
        """Every value of the float network."""
        self.layer = ""
        self.run(images)
        return dict(self.env)

    def outputs_with(self, layer: str, images: Tensor, values: dict[fx.Node, Any]) -> Any:
        """The network's output with `layer` quantized."""
        self.layer = layer
        touched: set[fx.Node] = set()
        for node in self.module.graph.nodes:
            own = self.kinds[node] is Kind.CONV and str(node.target) == layer
            if own or any(value in touched for value in node.all_input_nodes):
                touched.add(node)
        return self.run(images, initial_env={node: value for node, value in values.items() if node not in touched})


@torch.no_grad()
def rank_layers(
    gm: QuantizedModel, batches: Iterable[Tensor], *, names: Sequence[str] | None = None
) -> list[LayerScore]:
    """Score convolutions one at a time, worst first.

    Args:
        gm: calibrated model; the grid is that of its present dialect. It is left as it was.
        batches: images [B, 3, H, W] float32 in 0..1.
        names: convolutions to score; default: those that are quantized now.

    Raises:
        ValueError: no image.
    """
    state = state_of(gm)
    names = [n for n in convolution_names(gm) if n not in state.float_layers] if names is None else list(names)
    interpreter = _OneLayer(gm)
    noise: dict[str, Tensor] = {}
    signal, macs, training = torch.zeros(0), {}, gm.training
    gm.eval()
    try:
        with quantizers_off(gm):
            for images in batches:
                values = interpreter.float_run(images)
                reference = _flat(_result(values, gm))
                signal = _added(signal, torch.stack([r.double().square().sum() for r in reference]))
                macs = macs or _macs(interpreter, values)
                for name in names:
                    outputs = _flat(interpreter.outputs_with(name, images, values))
                    pairs = zip(outputs, reference, strict=True)
                    power = torch.stack([(o.double() - r.double()).square().sum() for o, r in pairs])
                    noise[name] = _added(noise.get(name, torch.zeros(0)), power)
    finally:
        gm.train(training)
    if not signal.numel():
        raise ValueError("ranking layers needs at least one image; check the calibration list")
    scores = []
    for name in names:
        decibels = tuple(_decibels(float(s), float(n)) for s, n in zip(signal, noise[name], strict=True))
        scores.append(LayerScore(name, sum(decibels) / len(decibels), decibels, macs[name] / sum(macs.values())))
    return sorted(scores, key=lambda score: (score.sqnr_db, score.name))


def _result(values: dict[fx.Node, Any], gm: QuantizedModel) -> Any:
    return values[next(node for node in gm.graph.nodes if node.op == "output")]


def _flat(output: Any) -> list[Tensor]:
    """Tensors of a nested output, in order."""
    if isinstance(output, Tensor):
        return [output]
    items = output.values() if isinstance(output, dict) else output
    return [tensor for item in items for tensor in _flat(item)]


def _added(total: Tensor, power: Tensor) -> Tensor:
    return power.cpu() if not total.numel() else total + power.cpu()


def _decibels(signal: float, noise: float, *, limit: float = 200.0) -> float:
    """Ratio in decibels, cut at +-limit, so that it stays a number where there is no noise or no signal."""
    if noise <= 0:
        return limit
    return max(-limit, min(limit, 10 * math.log10(signal / noise))) if signal > 0 else -limit


def _macs(interpreter: _OneLayer, values: dict[fx.Node, Any]) -> dict[str, float]:
    """Multiply-accumulates of every convolution on one batch."""
    macs: dict[str, float] = {}
    for node, kind in interpreter.kinds.items():
        if kind is Kind.CONV:
            name = str(node.target)
            macs[name] = (
                macs.get(name, 0.0) + values[node].numel() * interpreter.module.get_submodule(name).weight[0].numel()
            )
    return macs


@dataclass(frozen=True)
class Trial:
    """One verified choice: these layers float, all others quantized."""

    float_layers: tuple[str, ...]
    score: float


@dataclass(frozen=True)
class Choice:
    """The layers to keep float, and how it came to that.

    Attributes:
        float_layers: chosen convolutions; prediction convolutions, float anyway, are not among them.
        score: what `verify` gave for them.
        within_budget: whether the drop is small enough.
        trials: everything that was verified, in order.
    """

    float_layers: tuple[str, ...]
    score: float
    within_budget: bool
    trials: tuple[Trial, ...]


def choose_float_layers(
    order: Sequence[str],
    *,
    verify: Callable[[tuple[str, ...]], float],
    float_score: float,
    max_drop: float | None,
    max_layers: int,
    recheck: int = 0,
) -> Choice:
    """The fewest float layers, taken from the worst on, whose score drops by at most `max_drop`; else the best found.

    Without `max_drop` it is the best found: the highest score with at most `max_layers` float.

    Args:
        order: convolutions, most sensitive first.
        verify: float layers -> score (mAP in 0..1) of the model with all others quantized.
        float_score: score of the float model.
        max_drop: tolerated float_score - score.
        max_layers: most layers that may stay float.
        recheck: so many of the worst are first verified one by one (float alone) and put in order of what they give
            back; the noise on raw outputs is a good guide to which layers matter, a weak one to their order.
    """
    if max_layers < 0 or (max_drop is not None and max_drop < 0):
        raise ValueError(f"budget of max_layers {max_layers} and max_drop {max_drop}: neither may be negative")
    trials: dict[tuple[str, ...], Trial] = {}

    def score(layers: tuple[str, ...]) -> float:
        if layers not in trials:
            trials[layers] = Trial(layers, verify(layers))
        return trials[layers].score

    def done(layers: tuple[str, ...]) -> bool:
        drop = float_score - score(layers)
        # A tolerance far below any mAP difference, so that a drop of exactly max_drop counts as held.
        return max_drop is not None and drop <= max_drop + 1e-9

    order = list(order)
    if not done(()) and max_layers > 0:
        head = sorted(order[:recheck], key=lambda name: -score((name,)))
        order = head + order[recheck:]
        for count in range(1, min(max_layers, len(order)) + 1):
            if done(tuple(order[:count])):
                break
    fitting = [trial for trial in trials.values() if len(trial.float_layers) <= max_layers]
    held = [trial for trial in fitting if done(trial.float_layers)]
    # Fewest layers among those that hold the budget; otherwise the best score, fewer layers on a tie.
    best = (
        min(held, key=lambda trial: (len(trial.float_layers), -trial.score))
        if held
        else max(fitting, key=lambda trial: (trial.score, -len(trial.float_layers)))
    )
    return Choice(best.float_layers, best.score, bool(held) or max_drop is None, tuple(trials.values()))
