"""Calibration: one float pass over some images, then ranges by any method, and a report of what looks wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from yolov6core.quant.graph_ops import Kind, kind_of
from yolov6core.quant.insert import QuantizedModel, convolution_names, quantizers_off, state_of
from yolov6core.quant.observers import BINS, Histogram, Method, clipped_range, noise_ratio_db
from yolov6core.quant.spec import INT8
from yolov6core.saturation import channel_amax

Ranges = dict[str, tuple[float, float]]
"""Scale group -> (amin, amax)."""

_SATURATION = {
    **dict.fromkeys((nn.Hardswish, functional.hardswish), (-3.0, math.inf)),
    **dict.fromkeys((nn.Hardsigmoid, functional.hardsigmoid), (-3.0, 3.0)),
}
"""Where an activation becomes constant: what lies beyond need not be represented."""


@dataclass
class Statistics:
    """What a calibration pass saw.

    Attributes:
        histograms: scale group -> histogram over all values of the group.
        channel_peaks: tensor (node name) -> largest magnitude of each channel [C], of tensors with four dimensions.
        inputs: scale groups that hold the network's input; its range is known, so nothing of it is clipped.
        read: scale group -> interval of the values that its readers tell apart, where it is not all numbers.
        images: number of images.
    """

    histograms: dict[str, Histogram]
    inputs: frozenset[str] = frozenset()
    channel_peaks: dict[str, Tensor] = field(default_factory=dict)
    read: dict[str, tuple[float, float]] = field(default_factory=dict)
    images: int = 0


class _Watcher(fx.Interpreter):
    """Runs the graph and shows every tensor of interest to a callback, before anything can overwrite it."""

    def __init__(self, gm: QuantizedModel, watched: Mapping[str, str], see: Callable[[str, str, Tensor], None]) -> None:
        super().__init__(gm)
        self.watched = watched
        self.see = see

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self.watched and isinstance(value, Tensor) and value.is_floating_point():
            self.see(n.name, self.watched[n.name], value)
        return value


@torch.no_grad()
def collect(gm: QuantizedModel, batches: Iterable[Tensor], *, bins: int = BINS) -> Statistics:
    """Run the float network over `batches` and count what every scale group holds.

    Args:
        gm: quantized model, calibrated or not; its quantizers are off for the time.
        batches: images [B, 3, H, W] float32 in 0..1, on the model's device.
        bins: of the histograms; doubled at most.

    Raises:
        ValueError: no batch, or a tensor that holds NaN or infinity (named).
    """
    groups = state_of(gm).groups
    placeholders = (node.name for node in gm.graph.nodes if node.op == "placeholder")
    inputs = frozenset(groups.group_of[name] for name in placeholders if name in groups.group_of)
    statistics = Statistics({name: Histogram(bins) for name in groups.sources}, inputs, read=_read_limits(gm))

    def see(tensor: str, group: str, value: Tensor) -> None:
        try:
            statistics.histograms[group].update(value)
        except ValueError as error:
            raise ValueError(f"{tensor}: {error}") from None
        if value.dim() == 4 and value.numel():
            peaks = value.detach().abs().amax(dim=(0, 2, 3)).cpu()
            seen = statistics.channel_peaks.get(tensor)
            statistics.channel_peaks[tensor] = peaks if seen is None else torch.maximum(seen, peaks)

    watched = {tensor: group for group, tensors in groups.sources.items() for tensor in tensors}
    watcher = _Watcher(gm, watched, see)
    training = gm.training
    gm.eval()
    try:
        with quantizers_off(gm):
            for images in batches:
                statistics.images += images.shape[0]
                watcher.run(images)
    finally:
        gm.train(training)
    if not statistics.images:
        raise ValueError("calibration needs at least one image; check the calibration list")
    return statistics


def _read_limits(gm: QuantizedModel) -> dict[str, tuple[float, float]]:
    """Scale group -> the interval of its values that its readers tell apart, where there is an end to it."""
    groups, limits = state_of(gm).groups, {}
    for node in gm.graph.nodes:
        group = groups.group_of.get(node.name)
        for reader in _readers(node, gm) if group else ():
            if groups.group_of.get(reader.name) == group:  # carries the values on
                continue
            target = type(gm.get_submodule(str(reader.target))) if reader.op == "call_module" else reader.target
            low, high = _SATURATION.get(target, (-math.inf, math.inf))
            before = limits.get(group, (low, high))
            limits[group] = min(before[0], low), max(before[1], high)
    return {group: interval for group, interval in limits.items() if interval != (-math.inf, math.inf)}


def _readers(node: fx.Node, gm: QuantizedModel) -> list[fx.Node]:
    """Readers of a value, quantized or not."""
    found = [_readers(user, gm) if kind_of(user, gm) is Kind.ACTIVATION_QUANTIZER else [user] for user in node.users]
    return [reader for readers in found for reader in readers]


def ranges(statistics: Statistics, method: Method) -> Ranges:
    """The range of every scale group by one method; (0, 0) for groups of which nothing was seen.

    It ends where all readers of a tensor become constant, -3 for hard-swish: no output changes by that.
    """
    found = {}
    for name, histogram in statistics.histograms.items():
        amin, amax = clipped_range(histogram, Method("max") if name in statistics.inputs else method)
        low, high = statistics.read.get(name, (-math.inf, math.inf))
        found[name] = min(max(amin, low), high), min(max(amax, low), high)
    return found


@dataclass(frozen=True)
class RangeRow:
    """One tensor group under one method: its range, how much is clipped, and the noise of the int8 grid."""

    group: str
    method: str
    amin: float
    amax: float
    seen_min: float
    seen_max: float
    clipped: float
    """Share of the values beyond the range, 0..1, by whole bins."""
    sqnr_db: float | None
    """Signal-to-noise ratio on the symmetric int8 grid; None where there is no noise (a tensor of zeros)."""


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
    """What makes quantization collapse, by name.

    Attributes:
        never_seen: scale groups that no image reached; they got the range 0 .. 0.
        all_zero: scale groups that held nothing but zero.
        dead_channels: tensor -> channels that stayed zero on all images.
        outlier_channels: tensor -> largest channel peak / median of them; one scale serves such tensors badly.
        dead_filters: convolution -> output channels whose weights are all zero.
    """

    never_seen: tuple[str, ...]
    all_zero: tuple[str, ...]
    dead_channels: dict[str, tuple[int, ...]]
    outlier_channels: dict[str, float]
    dead_filters: dict[str, tuple[int, ...]]


def health(gm: QuantizedModel, statistics: Statistics, *, outlier_ratio: float = 16.0) -> Health:
    """Find dead and wild channels and tensors that were never seen.

    Args:
        outlier_ratio: from which ratio of a tensor's largest channel to the median of its live channels it is listed.
    """
    histograms = statistics.histograms
    dead, wild = {}, {}
    for tensor, peaks in statistics.channel_peaks.items():
        if bool((peaks == 0).any()):
            dead[tensor] = tuple(torch.nonzero(peaks == 0).flatten().tolist())
        live = peaks[peaks > 0]
        if live.numel() and float(live.max() / live.median()) >= outlier_ratio:
            wild[tensor] = float(live.max() / live.median())
    filters = {}
    for name in convolution_names(gm):
        zero = torch.nonzero(channel_amax(gm.get_submodule(name).weight) == 0).flatten().tolist()
        if zero:
            filters[name] = tuple(zero)
    return Health(
        never_seen=tuple(name for name, histogram in histograms.items() if not histogram.total),
        all_zero=tuple(name for name, histogram in histograms.items() if histogram.total and histogram.peak == 0.0),
        dead_channels=dead,
        outlier_channels=dict(sorted(wild.items(), key=lambda item: -item[1])),
        dead_filters=filters,
    )
