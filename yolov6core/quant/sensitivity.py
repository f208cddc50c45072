"""Sensitivity of each convolution to quantization: of all layers at once by gradients, or of one layer at a time.

The fast measure uses the Fisher information. Quantizing layer l alone moves its result by d_l. To second order this
costs the network |W J_l d_l|^2. J_l is the derivative of the outputs that count (scores and boxes) by the layer's
result, W the weight of each of their numbers. For class scores W is the square root of the Fisher information, so that
the cost is twice the KL divergence from the float network. With random signs e, the square of e^T W J_l d_l has exactly
this mean (Hutchinson's estimator), and e^T W J_l is one backward pass for all layers. No labels are needed. Works for
any network of convolutions that torch.fx traces.

Ranges may clip an image hard that was not among the calibration images. The squared error of one such image would
decide the whole ranking. A layer's sensitivity is therefore the square of the mean root of its costs on single images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn

from yolov6core.base.progress import tracked
from yolov6core.quant.graph_ops import Kind, activation_quantizers, kind_of, quant_conv
from yolov6core.quant.insert import QuantizedModel, convolution_names, quantizers_off, state_of

Result = TypeVar("Result")
Readout = Callable[[Any], Sequence[tuple[Tensor, Tensor]]]
"""Raw outputs of a network -> pairs (values, weights) of equal shape: the numbers that count, and the weights of their
errors."""


class _FloatRun(fx.Interpreter):
    """Runs the graph without quantizers; the convolutions in `layers` can return their INT8 results."""

    def __init__(self, gm: QuantizedModel, layers: Iterable[str]) -> None:
        super().__init__(gm)
        self.layers = tuple(layers)
        self.kinds = {node: kind_of(node, gm) for node in gm.graph.nodes}
        self.gm, self.group_of = gm, state_of(gm).groups.group_of
        self.quantizers = activation_quantizers(gm)

    def run_node(self, n: fx.Node) -> Any:
        if self.kinds[n] is Kind.CONV and str(n.target) in self.layers:
            return self.convolution(n)
        return super().run_node(n)

    def convolution(self, n: fx.Node) -> Tensor:
        """Result of a convolution of `layers`."""
        return self.quantized(n)

    def quantized(self, n: fx.Node) -> Tensor:
        """Result of the convolution with only its weights and its input rounded."""
        value = read = n.all_input_nodes[0]
        if self.kinds[value] is Kind.ACTIVATION_QUANTIZER:  # switched off, so that its result is its input
            value = value.all_input_nodes[0]
        conv, quantizer = quant_conv(self.gm, str(n.target)), self.quantizers[self.group_of[value.name]]
        before = conv.active, conv.enabled
        conv.active = conv.enabled = quantizer.enabled = True
        try:
            return conv(quantizer(self.env[read]))
        finally:
            (conv.active, conv.enabled), quantizer.enabled = before, False


class OneLayer(nn.Module):
    """The float network with the weights and the input of a single convolution quantized, for the exact measure."""

    def __init__(self, gm: QuantizedModel, layer: str) -> None:
        """gm: calibrated model; it is shared, not copied, and never changed."""
        super().__init__()
        self.gm, self._run = gm, _FloatRun(gm, [layer])

    def forward(self, images: Tensor) -> Any:
        """Raw outputs for images [B, 3, H, W]."""
        with quantizers_off(self.gm):
            return self._run.run(images)


class _ProbedRun(_FloatRun):
    """Runs the float network with y + t * d in place of each result y of `layers`.

    d is the quantization error, t = 0 one number per image. The gradient by t is the derivative of the outputs along d.
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
    """Cost of quantizing each convolution alone, for all of them in a few passes; see the text of this module.

    Args:
        gm: calibrated model on the grid of its present dialect. It does not change.
        batches: images [B, 3, H, W] float32 in 0..1.
        names: convolutions to measure; default: those that are quantized now.
        readout: the outputs that count and their weights; default `relative_readout`.
        probes: random vectors per batch, with one backward pass each.
        seed: of the random signs.

    Returns: layer -> square of the mean root of the weighted squared errors of single images; larger is worse. Values
    of several layers may be added if they are small, because rounding errors of layers are independent.

    Raises:
        ValueError: no image.
    """
    names = quantized_names(gm) if names is None else list(names)
    readout, run = readout or relative_readout, _ProbedRun(gm, names)
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


def _costs(run: _ProbedRun, images: Tensor, *, readout: Readout, probes: int, generator: torch.Generator) -> Tensor:
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
        for name, derivative in _derivatives(run.steps, gradients).items():
            total[name] = total[name] + derivative.flatten().double().cpu().square() / probes
    return torch.stack([total[name] for name in run.layers])


def _random_sum(pairs: Sequence[tuple[Tensor, Tensor]], generator: torch.Generator) -> Tensor:
    """Sum of all weighted values, each with a random sign."""
    total: Any = 0
    for values, weights in pairs:
        signs = torch.randint(0, 2, values.shape, generator=generator).to(values) * 2 - 1
        total = total + (values * weights.detach() * signs).sum()
    return total


def _derivatives(steps: Sequence[tuple[str, Tensor]], gradients: Sequence[Tensor | None]) -> dict[str, Tensor]:
    """Layer -> derivative per image along its error, summed over the calls of the layer."""
    found: dict[str, Tensor] = {}
    for (name, step), gradient in zip(steps, gradients, strict=True):
        value = torch.zeros_like(step) if gradient is None else gradient
        found[name] = found[name] + value if name in found else value
    return found


def relative_readout(outputs: Any) -> list[tuple[Tensor, Tensor]]:
    """Readout of all tensors of a nested output, each weighted by the inverse of its norm.

    The cost is then the sum over the tensors of noise power / signal power, an inverse signal-to-noise ratio.
    """
    flat = flat_tensors(outputs)
    return [(value, torch.full_like(value, float(_inverse_norm(value)))) for value in flat]


def _inverse_norm(value: Tensor) -> Tensor:
    power = value.detach().double().square().sum() / len(value)
    return power.clamp_min(1e-30).rsqrt()


def detection_readout(boxes: Tensor, scores: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Readout of detections: class probabilities by their Fisher information, boxes by size and confidence.

    Args:
        boxes: [B, A, 4] xyxy in any unit.
        scores: [B, A, C] independent class probabilities.

    The squared error of a score p has the weight 1 / (p (1 - p)), the Fisher information of a Bernoulli variable: half
    the sum is the KL divergence. The squared error of a side is relative to the box's width or height and weighted by
    the anchor's best score, because boxes of background anchors do not matter.
    """
    probability = scores.detach()
    information = (probability * (1 - probability)).clamp_min(1e-6).rsqrt()
    extent = (boxes.detach()[..., 2:] - boxes.detach()[..., :2]).abs().clamp_min(1e-3)
    confidence = probability.amax(dim=-1, keepdim=True).sqrt()
    return [(scores, information), (boxes, BOX_WEIGHT * confidence / torch.cat((extent, extent), dim=-1))]


BOX_WEIGHT = 3.0
"""An error of a third of the box counts as much as one standard deviation of a class score."""


def exact_results(
    gm: QuantizedModel,
    names: Iterable[str],
    *,
    evaluate: Callable[[nn.Module], Result],
    known: Mapping[str, Result] | None = None,
    keep: Callable[[dict[str, Result]], None] | None = None,
) -> dict[str, Result]:
    """Results of `evaluate` for the float network with each convolution quantized alone, one evaluation per layer.

    Args:
        evaluate: network -> result, for example its mAP.
        known: results of an interrupted run; their layers are not evaluated again.
        keep: called after every evaluation with all results so far, to store them.
    """
    names, results = list(names), dict(known or {})
    left = [name for name in names if name not in results]
    for name in tracked(left, "layers, each quantized alone", unit="layers"):
        results[name] = evaluate(OneLayer(gm, name))
        if keep is not None:
            keep(results)
    return {name: results[name] for name in names}


@torch.no_grad()
def layer_macs(gm: QuantizedModel, images: Tensor) -> dict[str, float]:
    """Convolution -> share 0..1 of the multiply-adds of all convolutions, for images [B, 3, H, W] of this size."""
    macs: dict[str, float] = {}

    class Counting(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if kind_of(n, gm) is Kind.CONV:
                name = str(n.target)
                macs[name] = macs.get(name, 0.0) + value.numel() * quant_conv(gm, name).weight[0].numel()
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
    """Spearman's rank correlation of two series of one length, ties at their mean rank; NaN if a series is constant.

    Raises:
        ValueError: lengths differ, or are below 2.
    """
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
