"""How much each convolution suffers from quantization: all layers at once by gradients, or one at a time for real.

The fast measure is the Fisher information's answer. Quantizing layer l alone moves its result by d_l. To second order
that costs the network |W J_l d_l|^2, with J_l the derivative of what the network says (its scores and boxes) by the
layer's result and W the weight of each number in it: for class scores the square root of the Fisher information, so
that the cost is twice the KL divergence from the float network. With random signs e the square of
e^T W J_l d_l has exactly this mean (Hutchinson), and e^T W J_l is one backward pass, shared by all layers. No labels
are needed. Works for any network of convolutions that torch.fx traces.

Ranges may clip an image hard that calibration never saw; squared errors of one such image would decide the whole
ranking. A layer's sensitivity is therefore the square of the mean root of its costs on single images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn

from yolov6core.quant.graph_ops import Kind, kind_of
from yolov6core.quant.insert import QuantizedModel, convolution_names, quantizers_off, state_of

Result = TypeVar("Result")
Readout = Callable[[Any], Sequence[tuple[Tensor, Tensor]]]
"""Raw outputs to pairs (values, weights) of equal shape: what the network says, and how much an error there matters."""


class _FloatRun(fx.Interpreter):
    """The network's graph without quantizers, in which single convolutions can be asked for their INT8 result."""

    def __init__(self, gm: QuantizedModel, layers: Iterable[str]) -> None:
        super().__init__(gm)
        self.layers = tuple(layers)
        self.kinds = {node: kind_of(node, gm) for node in gm.graph.nodes}
        self.group_of = state_of(gm).groups.group_of

    def run_node(self, n: fx.Node) -> Any:
        if self.kinds[n] is Kind.CONV and str(n.target) in self.layers:
            return self.convolution(n)
        return super().run_node(n)

    def convolution(self, n: fx.Node) -> Tensor:
        """Result of a convolution of `layers`."""
        return self.quantized(n)

    def quantized(self, n: fx.Node) -> Tensor:
        """The convolution's result with its weights and its input rounded, and nothing else."""
        value = read = n.all_input_nodes[0]
        if self.kinds[value] is Kind.ACTIVATION_QUANTIZER:  # switched off, so that it holds the value as it is
            value = value.all_input_nodes[0]
        conv, limits = self.module.get_submodule(str(n.target)), self.module.ranges[self.group_of[value.name]]
        before = conv.active, conv.enabled
        conv.active = conv.enabled = limits.enabled = True
        try:
            return conv(limits(self.env[read]))
        finally:
            (conv.active, conv.enabled), limits.enabled = before, False


class OneLayer(nn.Module):
    """The float network with a single convolution quantized, weights and input: what the exact measure evaluates."""

    def __init__(self, gm: QuantizedModel, layer: str) -> None:
        """gm: calibrated model; shared, not copied, and never changed."""
        super().__init__()
        self.gm, self._run = gm, _FloatRun(gm, [layer])

    def forward(self, images: Tensor) -> Any:
        """Raw outputs for images [B, 3, H, W]."""
        with quantizers_off(self.gm):
            return self._run.run(images)


class _Probed(_FloatRun):
    """The float network with y + t * d for each convolution's result y, its quantization error d, and t = 0 an image.

    The gradient by t is the derivative of the outputs along d.
    """

    def __init__(self, gm: QuantizedModel, layers: Iterable[str]) -> None:
        super().__init__(gm, layers)
        self.steps: list[tuple[str, Tensor]] = []

    def convolution(self, n: fx.Node) -> Tensor:
        exact = fx.Interpreter.run_node(self, n)
        with torch.no_grad():
            error = self.quantized(n) - exact
        step = exact.new_zeros((len(exact), *[1] * (exact.dim() - 1)), requires_grad=True)
        self.steps.append((str(n.target), step))
        return exact + step * error


def fast_sensitivity(
    gm: QuantizedModel,
    batches: Iterable[Tensor],
    *,
    names: Sequence[str] | None = None,
    readout: Readout | None = None,
    probes: int = 2,
    seed: int = 0,
) -> dict[str, float]:
    """What quantizing each convolution alone costs, all of them from a few passes; see the module's text.

    Args:
        gm: calibrated model; the grid is that of its present dialect. It is left as it was.
        batches: images [B, 3, H, W] float32 in 0..1.
        names: convolutions to measure; default: those that are quantized now.
        readout: what counts, and how much; default `relative_readout`.
        probes: random vectors a batch, one backward pass each.
        seed: of the random signs.

    Returns: layer -> square of the mean root of the weighted squared errors of single images; larger is worse. Small
    values of several layers may be added: their rounding errors are independent.

    Raises:
        ValueError: no image.
    """
    names = quantized_names(gm) if names is None else list(names)
    readout, run = readout or relative_readout, _Probed(gm, names)
    costs: list[Tensor] = []
    training = gm.training
    gm.eval()
    try:
        with quantizers_off(gm), torch.enable_grad():
            for number, batch in enumerate(batches):
                generator = torch.Generator().manual_seed(seed + number)
                costs.append(_costs(run, batch, readout=readout, probes=probes, generator=generator))
    finally:
        gm.train(training)
    if not costs:
        raise ValueError("ranking layers needs at least one image; check the image list")
    sensitivity = torch.cat(costs, dim=1).sqrt().mean(dim=1).square()
    return dict(zip(names, sensitivity.tolist(), strict=True))


def _costs(run: _Probed, images: Tensor, *, readout: Readout, probes: int, generator: torch.Generator) -> Tensor:
    """Estimated cost float64 [layers, B] of quantizing each of the run's layers, for every image."""
    run.steps.clear()
    pairs = readout(run.run(images))
    total: dict[str, Tensor] = dict.fromkeys(run.layers, torch.zeros(len(images), dtype=torch.float64))
    for probe in range(probes):
        gradients = torch.autograd.grad(
            _random_sum(pairs, generator),
            [step for _, step in run.steps],
            retain_graph=probe + 1 < probes,
            allow_unused=True,
        )
        for name, along in _along(run.steps, gradients).items():
            total[name] = total[name] + along.flatten().double().cpu().square() / probes
    return torch.stack([total[name] for name in run.layers])


def _random_sum(pairs: Sequence[tuple[Tensor, Tensor]], generator: torch.Generator) -> Tensor:
    """Sum of all weighted values, each with a random sign."""
    total: Any = 0
    for values, weights in pairs:
        signs = torch.randint(0, 2, values.shape, generator=generator).to(values) * 2 - 1
        total = total + (values * weights.detach() * signs).sum()
    return total


def _along(steps: Sequence[tuple[str, Tensor]], gradients: Sequence[Tensor | None]) -> dict[str, Tensor]:
    """Layer -> derivative an image along its error; a layer that the graph calls several times has one error in all."""
    found: dict[str, Tensor] = {}
    for (name, step), gradient in zip(steps, gradients, strict=True):
        value = torch.zeros_like(step) if gradient is None else gradient
        found[name] = found[name] + value if name in found else value
    return found


def relative_readout(outputs: Any) -> list[tuple[Tensor, Tensor]]:
    """Every tensor of a nested output as it is, an error counting relative to the tensor's root mean square.

    The cost is then the sum over the outputs of noise power to signal power, an inverse signal-to-noise ratio.
    """
    flat = flat_tensors(outputs)
    return [(value, torch.full_like(value, float(_inverse_norm(value)))) for value in flat]


def _inverse_norm(value: Tensor) -> Tensor:
    power = value.detach().double().square().sum() / len(value)
    return power.clamp_min(1e-30).rsqrt()


def detection_readout(boxes: Tensor, scores: Tensor) -> list[tuple[Tensor, Tensor]]:
    """What counts in detections: class probabilities by their Fisher information, boxes as far as they are believed.

    Args:
        boxes: [B, A, 4] xyxy in any unit.
        scores: [B, A, C] independent class probabilities.

    An error of a score counts by 1 / (p (1 - p)), the Fisher information of a Bernoulli variable: half the sum is the
    KL divergence. An error of a side counts relative to the box's width or height, times the anchor's best score:
    boxes of background anchors mean nothing.
    """
    probability = scores.detach()
    information = (probability * (1 - probability)).clamp_min(1e-6).rsqrt()
    extent = (boxes.detach()[..., 2:] - boxes.detach()[..., :2]).abs().clamp_min(1e-3)
    belief = probability.amax(dim=-1, keepdim=True).sqrt()
    return [(scores, information), (boxes, BOX_WEIGHT * belief / torch.cat((extent, extent), dim=-1))]


BOX_WEIGHT = 3.0
"""A side that is wrong by a third of the box counts as much as one standard deviation of a class score."""


def exact_results(
    gm: QuantizedModel,
    names: Iterable[str],
    *,
    evaluate: Callable[[nn.Module], Result],
    known: Mapping[str, Result] | None = None,
    keep: Callable[[dict[str, Result]], None] | None = None,
) -> dict[str, Result]:
    """What `evaluate` finds for the float network with each convolution quantized alone: one evaluation a layer.

    Args:
        evaluate: network -> result, such as its mAP.
        known: results of an interrupted run; these layers are not evaluated again.
        keep: called after every evaluation with all results so far, to store them.
    """
    names, results = list(names), dict(known or {})
    for name in names:
        if name not in results:
            results[name] = evaluate(OneLayer(gm, name))
            if keep is not None:
                keep(results)
    return {name: results[name] for name in names}


@torch.no_grad()
def layer_macs(gm: QuantizedModel, images: Tensor) -> dict[str, float]:
    """Share of the network's multiply-adds (convolutions, 0..1) of every convolution, for images of this size."""
    macs: dict[str, float] = {}

    class Counting(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if kind_of(n, gm) is Kind.CONV:
                name = str(n.target)
                macs[name] = macs.get(name, 0.0) + value.numel() * gm.get_submodule(name).weight[0].numel()
            return value

    with quantizers_off(gm):
        Counting(gm).run(images[:1])
    total = sum(macs.values())
    return {name: value / total for name, value in macs.items()}


def quantized_names(gm: QuantizedModel) -> list[str]:
    """Convolutions that are quantized now, in order of execution."""
    return [name for name in convolution_names(gm) if name not in state_of(gm).float_layers]


def flat_tensors(outputs: Any) -> list[Tensor]:
    """Tensors of a nested output, in order."""
    if isinstance(outputs, Tensor):
        return [outputs]
    items = outputs.values() if isinstance(outputs, dict) else outputs
    return [tensor for item in items for tensor in flat_tensors(item)]


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Rank correlation of two equally long series, ties at their mean rank; NaN where one of them is constant."""
    if len(a) != len(b) or len(a) < 2:
        raise ValueError(f"rank correlation needs two series of one length, at least 2; got {len(a)} and {len(b)}")
    ranks = torch.stack([_ranks(a), _ranks(b)])
    centred = ranks - ranks.mean(dim=1, keepdim=True)
    return float((centred[0] * centred[1]).sum() / centred.square().sum(dim=1).prod().sqrt())


def _ranks(values: Sequence[float]) -> Tensor:
    series = torch.tensor([float(value) for value in values], dtype=torch.float64)
    below = (series[None] < series[:, None]).sum(dim=1)
    equal = (series[None] == series[:, None]).sum(dim=1)
    return below + (equal + 1) / 2
