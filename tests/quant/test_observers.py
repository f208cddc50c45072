"""Calibrators against direct implementations of their definitions, and the histogram's promises."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from yolov6core.quant.observers import (
    LEVELS,
    Histogram,
    Method,
    clipped_range,
    entropy_threshold,
    mse_threshold,
    noise_ratio_db,
    percentile_threshold,
    threshold,
)


def entropy_by_definition(counts: np.ndarray, width: float) -> float:
    bins = counts.astype(np.float64)
    bins[0] = bins[1]
    best, best_divergence = None, math.inf
    for i in range(LEVELS, len(bins) + 1):
        kept, group = bins[:i], np.floor(np.arange(i) * LEVELS / i).astype(int)
        sums = np.bincount(group, weights=kept, minlength=LEVELS)
        filled = np.bincount(group, weights=kept > 0, minlength=LEVELS)
        q = np.where(kept > 0, sums[group] / np.maximum(filled[group], 1), 0.0)
        p = kept.copy()
        p[-1] += bins[i:].sum()
        p, q = p / p.sum(), q / q.sum()
        if np.any((p > 0) & (q == 0)):
            divergence = math.inf
        else:
            present = p > 0
            divergence = float((p[present] * np.log(p[present] / q[present])).sum())
        if divergence <= best_divergence + 1e-12:
            best, best_divergence = i, min(divergence, best_divergence)
    return best * width


def mse_by_definition(counts: np.ndarray, width: float) -> float:
    centres = (np.arange(len(counts)) + 0.5) * width
    errors = []
    for i in range(LEVELS, len(counts)):
        scale = 127 / centres[i]
        rounded = np.clip(np.rint(centres * scale), -127, 127) / scale
        errors.append(float(((rounded - centres) ** 2 * counts).mean()))
    return float(centres[LEVELS + int(np.argmin(errors))])


def shapes(bins: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    samples = [np.abs(rng.normal(size=20_000)), rng.lognormal(sigma=1.5, size=20_000), rng.uniform(size=5_000)]
    samples.append(np.concatenate((np.zeros(30_000), np.abs(rng.normal(size=9_000)), [40.0])))
    return [np.histogram(sample, bins=bins, range=(0, sample.max()))[0] for sample in samples]


@pytest.mark.parametrize("bins", [256, 300, 613])
def test_closed_forms_equal_the_definitions(bins):
    for counts in shapes(bins):
        assert entropy_threshold(counts, 0.5) == entropy_by_definition(counts, 0.5)
        assert mse_threshold(counts, 0.5) == pytest.approx(mse_by_definition(counts, 0.5), rel=1e-12)


def test_entropy_never_ends_on_an_empty_bin_before_a_tail():
    counts = np.ones(256, dtype=np.int64)
    counts[128:255] = 0
    assert entropy_threshold(counts, 1.0) in (128.0, 256.0)


def test_the_smallest_histogram_has_one_entropy_candidate():
    assert entropy_threshold(np.ones(LEVELS, dtype=np.int64), 1.0) == LEVELS


def test_percentile_keeps_at_least_its_share():
    counts = np.array([90, 9, 1, 0])
    assert [percentile_threshold(counts, 1.0, p) for p in (50, 90, 90.5, 99, 99.5, 100)] == [1, 1, 2, 2, 3, 3]


def test_counts_stay_exact_beyond_what_float32_holds():
    histogram = Histogram()
    histogram.update(torch.tensor([1.0]))
    histogram.counts[0] += 2**24
    for _ in range(3):
        histogram.update(torch.zeros(1))
    assert histogram.counts[0] == 2**24 + 3


def test_growth_is_bounded_and_loses_nothing():
    histogram, total, reference = Histogram(256), 0, []
    generator = torch.Generator().manual_seed(0)
    for power in range(12):
        x = torch.randn(1000, generator=generator) * 1.9**power
        histogram.update(x)
        reference.append(x)
        total += x.numel()
        assert 256 <= len(histogram.counts) <= 512
        assert histogram.counts.sum() == histogram.total == total
        assert len(histogram.counts) * histogram.width >= histogram.peak
    values = torch.cat(reference)
    assert (histogram.low, histogram.high) == (float(values.min()), float(values.max()))
    index = (values.abs() / histogram.width).int().clamp_max(len(histogram.counts) - 1)
    direct = torch.bincount(index, minlength=len(histogram.counts)).numpy()
    # merging pairs puts every value where direct counting puts it, but for rounding at single edges
    assert np.abs(direct - histogram.counts).sum() <= 8


def test_zeros_before_anything_else_are_counted():
    histogram = Histogram()
    histogram.update(torch.zeros(10))
    assert threshold(histogram, Method("mse")) == 0.0 and clipped_range(histogram, Method("entropy")) == (0.0, 0.0)
    histogram.update(torch.tensor([-3.0, 0.0]))
    assert histogram.counts[0] == 11 and histogram.total == 12
    assert clipped_range(histogram, Method("max")) == (-3.0, 0.0)


def test_non_finite_values_are_refused():
    with pytest.raises(ValueError, match="NaN or infinity"):
        Histogram().update(torch.tensor([1.0, math.nan]))


@pytest.mark.parametrize(
    "arguments", [("median",), ("percentile",), ("mse", 99.0), ("percentile", 0.0), ("percentile", 101.0)]
)
def test_methods_check_themselves(arguments):
    with pytest.raises(ValueError, match="calibration method|percentile .* must be"):
        Method(*arguments)


def test_methods_order_as_expected_on_a_long_tail():
    histogram = Histogram()
    histogram.update(
        torch.cat((torch.randn(100_000, generator=torch.Generator().manual_seed(1)), torch.tensor([50.0])))
    )
    limits = {str(m): threshold(histogram, m) for m in (Method("max"), Method("mse"), Method("percentile", 99.9))}
    assert limits["percentile_99.9"] < limits["max"] == 50.0 and limits["mse"] <= 50.0
    assert clipped_range(histogram, Method("percentile", 99.9))[0] == -limits["percentile_99.9"]


def test_noise_ratio_of_a_uniform_signal_is_the_textbook_figure():
    histogram = Histogram()
    histogram.update(torch.linspace(-1, 1, 400_001))
    # step s over a uniform signal: signal 1/3, noise s^2/12
    expected = 10 * math.log10((1 / 3) / ((1 / 127) ** 2 / 12))
    assert noise_ratio_db(histogram, 1 / 127) == pytest.approx(expected, abs=0.2)


def test_labels_of_near_percentiles_differ_and_read_back():
    values = (99.9, 99.99, 99.99999, 99.999999, 100.0, 50.0)
    labels = [str(Method("percentile", value)) for value in values]
    assert labels[:4] == [f"percentile_{text}" for text in ("99.9", "99.99", "99.99999", "99.999999")]
    assert len(set(labels)) == len(values) and labels[4] == "percentile_100"
    assert [Method.parse(label).percentile for label in labels] == list(values)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("kind", ["max", "mse", "entropy"])
def test_a_nearly_constant_tensor_keeps_its_ends_in_order(kind, sign):
    """The least squared error clips at the centre of a bin, which may lie below all values."""
    histogram = Histogram()
    histogram.update(sign * torch.tensor([4.9999, 5.0]))
    low, high = clipped_range(histogram, Method(kind))
    assert low <= high and max(abs(low), abs(high)) == pytest.approx(5.0, rel=1e-3)
