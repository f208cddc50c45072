"""Calibration: one float pass over images, ranges by any method, and a report of tensors that quantize badly."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from yolov6core.base.saturation import channel_amax
from yolov6core.quant.graph_ops import Kind, kind_of, quant_conv
from yolov6core.quant.insert import QuantizedModel, convolution_names, quantizers_off, state_of
from yolov6core.quant.observers import BINS, Histogram, Method, clipped_range, noise_ratio_db
from yolov6core.quant.spec import INT8

Ranges = dict[str, tuple[float, float]]
"""Scale group -> (amin, amax)."""

_SATURATION = {
    **dict.fromkeys((nn.Hardswish, functional.hardswish), (-3.0, math.inf)),
    **dict.fromkeys((nn.Hardsigmoid, functional.hardsigmoid), (-3.0, 3.0)),
}
"""Activation -> interval outside which it is constant, so that a range need not hold the values beyond."""


@dataclass
class Statistics:
    """Results of a calibration pass.

    Attributes:
        histograms: scale group -> histogram over all values of the group.
        channel_peaks: tensor (node name) -> largest magnitude of each channel [C], of tensors with four dimensions.
        inputs: scale groups that hold the network's input; its range is known, so it is never clipped.
        reader_limits: scale group -> interval outside which all readers of the group are constant, where there is one.
        images: number of images.
    """

    histograms: dict[str, Histogram]
    inputs: frozenset[str] = frozenset()
    channel_peaks: dict[str, Tensor] = field(default_factory=dict)
    reader_limits: dict[str, tuple[float, float]] = field(default_factory=dict)
    images: int = 0


class _TensorObserver(fx.Interpreter):
    """Runs the graph and passes the watched tensors to a callback, before an in-place operator can overwrite them."""

    def __init__(
        self, gm: QuantizedModel, watched: Mapping[str, str], observe: Callable[[str, str, Tensor], None]
    ) -> None:
        super().__init__(gm)
        self.watched = watched
        self.observe = observe

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self.watched and isinstance(value, Tensor) and value.is_floating_point():
            self.observe(n.name, self.watched[n.name], value)
        return value


@torch.no_grad()
def collect(gm: QuantizedModel, batches: Iterable[Tensor], *, bins: int = BINS) -> Statistics:
    """Run the float network over `batches` and fill the histogram of every scale group.

    Args:
        gm: quantized model, calibrated or not; its quantizers are off during the pass.
        batches: images [B, 3, H, W] float32 in 0..1, on the model's device.
        bins: first number of bins of the histograms; at most doubled.

    Raises:
        ValueError: no batch, or a tensor that holds NaN or infinity; the message names it.
    """
    groups = state_of(gm).groups
    placeholders = (node.name for node in gm.graph.nodes if node.op == "placeholder")
    inputs = frozenset(groups.group_of[name] for name in placeholders if name in groups.group_of)
    statistics = Statistics(
        {name: Histogram(bins) for name in groups.sources}, inputs, reader_limits=_reader_limits(gm)
    )

    def observe(tensor: str, group: str, value: Tensor) -> None:
        try:
            statistics.histograms[group].update(value)
        except ValueError as error:
            raise ValueError(f"{tensor}: {error}") from None
        if value.dim() == 4 and value.numel():
            peaks = value.detach().abs().amax(dim=(0, 2, 3)).cpu()
            seen = statistics.channel_peaks.get(tensor)
            statistics.channel_peaks[tensor] = peaks if seen is None else torch.maximum(seen, peaks)

    watched = {tensor: group for group, tensors in groups.sources.items() for tensor in tensors}
    observer = _TensorObserver(gm, watched, observe)
    training = gm.training
    gm.eval()
    try:
        with quantizers_off(gm):
            for images in batches:
                statistics.images += images.shape[0]
                observer.run(images)
    finally:
        gm.train(training)
    if not statistics.images:
        raise ValueError("calibration needs at least one image; check the calibration list")
    return statistics


def _reader_limits(gm: QuantizedModel) -> dict[str, tuple[float, float]]:
    """Scale group -> interval outside which all its readers are constant, where it is not all numbers."""
    groups = state_of(gm).groups
    limits: dict[str, tuple[float, float]] = {}
    for node in gm.graph.nodes:
        group = groups.group_of.get(node.name)
        if group is None:
            continue
        for reader in _readers(node, gm):
            if groups.group_of.get(reader.name) == group:  # passes the values on
                continue
            target = type(gm.get_submodule(str(reader.target))) if reader.op == "call_module" else reader.target
            low, high = _SATURATION.get(target, (-math.inf, math.inf))
            before = limits.get(group, (low, high))
            limits[group] = min(before[0], low), max(before[1], high)
    return {group: interval for group, interval in limits.items() if interval != (-math.inf, math.inf)}


def _readers(node: fx.Node, gm: QuantizedModel) -> list[fx.Node]:
    """Readers of a value and of its quantized form."""
    found = [_readers(user, gm) if kind_of(user, gm) is Kind.ACTIVATION_QUANTIZER else [user] for user in node.users]
    return [reader for readers in found for reader in readers]


def ranges(statistics: Statistics, method: Method) -> Ranges:
    """Range of every scale group by one method; (0, 0) for groups without values.

    A range ends where all readers of the group become constant (-3 for hard-swish), which changes no output.
    """
    found = {}
    for name, histogram in statistics.histograms.items():
        amin, amax = clipped_range(histogram, Method("max") if name in statistics.inputs else method)
        low, high = statistics.reader_limits.get(name, (-math.inf, math.inf))
        found[name] = min(max(amin, low), high), min(max(amax, low), high)
    return found


@dataclass(frozen=True)
class RangeRow:
    """One scale group under one method: its range, the share of clipped values, and the noise of the int8 grid."""

    group: str
    method: str
    amin: float
    amax: float
    seen_min: float
    seen_max: float
    clipped: float
    """Share of the values beyond the range, 0..1, counted in whole bins."""
    sqnr_db: float | None
    """Signal-to-noise ratio on the symmetric int8 grid; None if there is no noise (a tensor of zeros)."""


def range_table(statistics: Statistics, methods: Mapping[str, Ranges]) -> list[RangeRow]:
    """Rows for all groups and methods (label -> ranges), in order of execution."""
    rows = []
    for group, histogram in statistics.histograms.items():
        for label, table in methods.items():
            amin, amax = table[group]
            scale, _ = INT8.scale_and_zero_point(amin, amax)
            limit = max(-amin, amax)
            beyond = int(histogram.counts[histogram.edges[:-1] >= limit].sum()) if limit > 0 else 0
            noise = noise_ratio_db(histogram, scale) if histogram.total else float("inf")
            rows.append(
                RangeRow(
                    group=group,
                    method=label,
                    amin=amin,
                    amax=amax,
                    seen_min=histogram.low if histogram.total else 0.0,
                    seen_max=histogram.high if histogram.total else 0.0,
                    clipped=beyond / max(histogram.total, 1),
                    sqnr_db=noise if noise < float("inf") else None,
                )
            )
    return rows


@dataclass(frozen=True)
class Health:
    """Tensors and channels that quantize badly, by name.

    Attributes:
        never_seen: scale groups without values; they got the range 0 .. 0.
        all_zero: scale groups that held only zeros.
        dead_channels: tensor -> channels that were zero on all images.
        outlier_channels: tensor -> largest channel peak / median channel peak, largest first. One scale cannot serve
            channels of so different sizes.
        dead_filters: convolution -> output channels whose weights are all zero.
    """

    never_seen: tuple[str, ...]
    all_zero: tuple[str, ...]
    dead_channels: dict[str, tuple[int, ...]]
    outlier_channels: dict[str, float]
    dead_filters: dict[str, tuple[int, ...]]


def health(gm: QuantizedModel, statistics: Statistics, *, outlier_ratio: float = 16.0) -> Health:
    """Find dead channels, outlier channels and scale groups without values.

    Args:
        outlier_ratio: smallest reported ratio of a tensor's largest channel peak to the median of its live channels.
    """
    histograms = statistics.histograms
    dead: dict[str, tuple[int, ...]] = {}
    outliers: dict[str, float] = {}
    for tensor, peaks in statistics.channel_peaks.items():
        if bool((peaks == 0).any()):
            dead[tensor] = tuple(torch.nonzero(peaks == 0).flatten().tolist())
        live = peaks[peaks > 0]
        if live.numel() and float(live.max() / live.median()) >= outlier_ratio:
            outliers[tensor] = float(live.max() / live.median())
    filters: dict[str, tuple[int, ...]] = {}
    for name in convolution_names(gm):
        zero = torch.nonzero(channel_amax(quant_conv(gm, name).weight) == 0).flatten().tolist()
        if zero:
            filters[name] = tuple(zero)
    return Health(
        never_seen=tuple(name for name, histogram in histograms.items() if not histogram.total),
        all_zero=tuple(name for name, histogram in histograms.items() if histogram.total and histogram.peak == 0.0),
        dead_channels=dead,
        outlier_channels=dict(sorted(outliers.items(), key=lambda item: -item[1])),
        dead_filters=filters,
    )
