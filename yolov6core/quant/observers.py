"""Calibration of a tensor's range: max, percentile, MSE and entropy from one histogram of magnitudes.

Entropy and MSE follow the definitions of NVIDIA's pytorch-quantization toolkit (128 levels for magnitudes, candidates
from bin 128 on) and give the same results. The closed form over prefix sums takes candidates x 128 steps instead of
candidates x bins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

BINS = 2048
LEVELS = 128
"""Levels of magnitudes on a symmetric int8 grid; also the first candidate bin."""


@dataclass(frozen=True)
class Method:
    """How a range is chosen. Text form: `max`, `mse`, `entropy`, `percentile_99.99`.

    Raises:
        ValueError: unknown kind, or a percentile that is missing, out of 0..100 or given for another kind.
    """

    kind: Literal["max", "percentile", "mse", "entropy"]
    percentile: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("max", "percentile", "mse", "entropy"):
            raise ValueError(f"calibration method {self.kind!r} is unknown; choose max, percentile, mse or entropy")
        if (self.percentile is not None) != (self.kind == "percentile"):
            raise ValueError(f"calibration method {self.kind!r}: only 'percentile' takes a percentile, and needs one")
        if self.percentile is not None and not 0 < self.percentile <= 100:
            raise ValueError(f"percentile {self.percentile} must be above 0 and at most 100")

    def __str__(self) -> str:
        return (
            self.kind
            if self.percentile is None
            else f"percentile_{np.format_float_positional(self.percentile, trim='-')}"
        )

    @classmethod
    def parse(cls, text: str) -> Method:
        """Inverse of `str`. Raises ValueError for text that names no method."""
        kind, _, percentile = text.partition("_")
        return cls(cast(Any, kind), float(percentile) if percentile else None)


class Histogram:
    """Histogram of the magnitudes of all values seen, and their true range.

    Counts are int64, because float32 counts stop growing at 2^24. All bins have one width. A larger value appends bins.
    Beyond twice the first number of bins, neighbours are merged and the width doubles. So the number of bins is bounded
    and counts are exact. The order of batches changes only the first width.

    Attributes:
        counts: int64 [n], n up to 2 * bins.
        width: of a bin; 0 until a value other than zero was seen.
        low, high: true minimum and maximum.
        total: number of values.
    """

    def __init__(self, bins: int = BINS) -> None:
        if bins < LEVELS or bins % 2:
            raise ValueError(f"a histogram needs an even number of bins, at least {LEVELS}, not {bins}")
        self.bins = bins
        self.counts = np.zeros(bins, dtype=np.int64)
        self.width = 0.0
        self.low, self.high = math.inf, -math.inf
        self.total = 0

    def update(self, x: Tensor) -> None:
        """Count the values of `x` (any shape, floating point).

        Raises:
            ValueError: `x` holds NaN or infinity.
        """
        if not x.numel():
            return
        magnitude = x.detach().abs().float()
        low, high, peak = float(x.min()), float(x.max()), float(magnitude.max())
        if not math.isfinite(peak):
            raise ValueError("a tensor holds NaN or infinity; check the weights and the calibration images")
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.total += x.numel()
        if self.width == 0.0 and peak == 0.0:
            self.counts[0] += x.numel()
            return
        self._cover(peak)
        index = magnitude.mul_(1.0 / self.width).to(torch.int32).clamp_max_(len(self.counts) - 1).flatten()
        self.counts += torch.bincount(index, minlength=len(self.counts)).cpu().numpy()

    def _cover(self, peak: float) -> None:
        if self.width == 0.0:
            # 1 / width must be finite in float32.
            self.width = max(peak / self.bins, 1e-30)
        while peak > 2 * self.bins * self.width:
            pairs = np.append(self.counts, np.zeros(len(self.counts) % 2, dtype=np.int64))
            self.counts = pairs.reshape(-1, 2).sum(axis=1)
            self.width *= 2
        needed = max(math.ceil(peak / self.width), self.bins)
        if needed > len(self.counts):
            self.counts = np.append(self.counts, np.zeros(needed - len(self.counts), dtype=np.int64))

    @property
    def edges(self) -> np.ndarray:
        """Bin edges, float64 [n + 1], from 0."""
        return np.arange(len(self.counts) + 1) * self.width

    @property
    def peak(self) -> float:
        """Largest magnitude seen; 0 before the first value."""
        return max(abs(self.low), abs(self.high)) if self.total else 0.0


def threshold(histogram: Histogram, method: Method) -> float:
    """Magnitude at which `method` clips the values of a histogram; 0 if it is empty or holds only zeros."""
    if histogram.peak == 0.0:
        return 0.0
    if method.kind == "max":
        return histogram.peak
    if method.kind == "percentile":
        assert method.percentile is not None, "Method checks that this kind has a percentile"
        return min(percentile_threshold(histogram.counts, histogram.width, method.percentile), histogram.peak)
    closed_form = mse_threshold if method.kind == "mse" else entropy_threshold
    return closed_form(histogram.counts, histogram.width)


def clipped_range(histogram: Histogram, method: Method) -> tuple[float, float]:
    """(amin, amax): the true range, cut at the method's threshold on both sides; (0, 0) if the histogram is empty."""
    if not histogram.total:
        return 0.0, 0.0
    limit = threshold(histogram, method)
    low, high = (min(max(end, -limit), limit) for end in (histogram.low, histogram.high))
    return low, high


def percentile_threshold(counts: np.ndarray, width: float, percentile: float) -> float:
    """Upper edge of the first bin up to which at least `percentile` percent of all values lie."""
    cumulated = np.cumsum(counts)
    index = int(np.searchsorted(cumulated, percentile / 100 * cumulated[-1]))
    return (min(index, len(counts) - 1) + 1) * width


def entropy_threshold(counts: np.ndarray, width: float) -> float:
    """Edge i * width (i = 128 .. n) at which clipping and merging into 128 groups loses the least information.

    For candidate i, P is the histogram of the first i bins with everything beyond added to the last of them; Q gives
    every non-empty bin the mean of the non-empty bins of its group, the group of bin j being floor(128 j / i).
    KL(P || Q) = [sum b log b - sum_k S_k log(S_k / n_k) + tail terms] / T - log T + log C_i over prefix sums, with
    group sums S_k, non-empty bins n_k, T all counts and C_i those of the first i bins. Bin 0 counts as much as bin 1,
    since the zeros of ReLU would dominate. If the last kept bin is empty and the tail is not, the divergence is
    infinite. The last of equal minima wins.
    """
    bins = counts.astype(np.float64)
    bins[0] = bins[1]
    n = len(bins)
    candidates = np.arange(LEVELS, n + 1)
    boundaries = -(-np.arange(LEVELS + 1) * candidates[:, None] // LEVELS)  # ceil(k i / 128), [candidates, 129]
    mass = _prefix(bins)
    sums = np.diff(mass[boundaries], axis=1)
    filled = np.diff(_prefix((bins > 0).astype(np.float64))[boundaries], axis=1)
    last, total, kept = bins[candidates - 1], mass[n], mass[candidates]
    tail = total - kept
    with np.errstate(divide="ignore", invalid="ignore"):
        log_means = np.log(np.where(filled > 0, sums / filled, 1.0))
        log_bins = np.log(np.where(bins > 0, bins, 1.0))
        spread = _prefix(bins * log_bins)[candidates] - (sums * log_means).sum(axis=1)
        grown = last + tail
        merged = grown * np.log(np.where(grown > 0, grown, 1.0)) - last * log_bins[candidates - 1]
        spread += np.where(tail > 0, merged - tail * log_means[:, -1], 0.0)
        divergence = spread / total - np.log(total) + np.log(kept)
    divergence[(last == 0) & (tail > 0)] = np.inf
    divergence[~np.isfinite(divergence)] = np.inf
    best = len(divergence) - 1 - int(np.argmin(divergence[::-1]))
    return float(candidates[best] * width)


def mse_threshold(counts: np.ndarray, width: float) -> float:
    """Bin centre (bins 128 .. n - 1) at which clipping gives the least squared error on the grid -127 .. 127.

    Every bin stands for its centre. In units of half a bin, bin j is at 2j + 1 and the level of candidate i is
    round(127 (2j + 1) / (2i + 1)), where ties cannot occur; so the first bin b_k of each level k is an integer
    division. The levels are k s with s = (2i + 1) / 127. N and M are the sums of n and n c before a bin; summation by
    parts gives sum n (c - q)^2 = sum n c^2 - 2 s (127 M - sum_k M(b_k)) + s^2 (127^2 N - sum_k (2k - 1) N(b_k)).
    The first of equal minima wins.
    """
    n, top = len(counts), LEVELS - 1
    centres = 2.0 * np.arange(n) + 1.0
    weighted = counts * centres
    count, moment = _prefix(counts.astype(np.float64)), _prefix(weighted)
    firsts = _level_starts(n)
    step = (2.0 * np.arange(LEVELS, n) + 1.0) / top
    products = top * moment[n] - moment.take(firsts).sum(axis=1)
    squares = top**2 * count[n] - count.take(firsts) @ (2.0 * np.arange(1, LEVELS) - 1.0)
    error = float((weighted * centres).sum()) - 2 * step * products + step**2 * squares
    return float((LEVELS + int(np.argmin(error)) + 0.5) * width)


@lru_cache(maxsize=4)
def _level_starts(n: int) -> np.ndarray:
    """First bin [candidates 128 .. n - 1, levels 1 .. 127] that rounds to each level; n if no bin does."""
    top = LEVELS - 1
    odd = 2 * np.arange(LEVELS, n)[:, None] + 1
    firsts = ((2 * np.arange(1, LEVELS) - 1) * odd - 2 * top) // (4 * top) + 1
    return np.clip(firsts, 0, n)


def _prefix(values: np.ndarray) -> np.ndarray:
    """Sums of the first 0, 1, .. n values."""
    return np.concatenate(([0.0], np.cumsum(values)))


def noise_ratio_db(histogram: Histogram, scale: float, levels: int = LEVELS - 1) -> float:
    """Signal-to-noise ratio in decibels of rounding the magnitudes seen to 0 .. levels steps of `scale`."""
    centres = (np.arange(len(histogram.counts)) + 0.5) * histogram.width
    centres[0] = 0.0 if histogram.counts[0] else centres[0]  # the zeros of ReLU, which every grid holds exactly
    error = np.clip(np.rint(centres / scale), 0, levels) * scale - centres
    signal, noise = (histogram.counts * centres**2).sum(), (histogram.counts * error**2).sum()
    return float(10 * np.log10(signal / noise)) if signal > 0 and noise > 0 else math.inf
