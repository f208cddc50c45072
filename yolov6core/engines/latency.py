"""Comparable latencies: all candidates run in one process, in turns; results are medians of many calls."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from yolov6core.base.progress import tracked


@dataclass(frozen=True)
class Latency:
    """Milliseconds a call: median, 90th and 99th percentile of all calls, and the median of each round."""

    median_ms: float
    p90_ms: float
    p99_ms: float
    rounds_ms: tuple[float, ...]


def measure(
    calls: Mapping[str, Callable[[], object]], *, rounds: int = 5, repeats: int = 10, warmup: int = 3
) -> dict[str, Latency]:
    """Time several calls in turns.

    The speed of a machine drifts by more than the differences of interest, so the candidates take turns. Each round
    times every candidate `repeats` times, after `warmup` untimed calls that warm its caches and threads.

    Args:
        calls: name -> function without arguments.

    Raises:
        ValueError: less than one round or repeat, or a negative warmup.
    """
    if rounds < 1 or repeats < 1 or warmup < 0:
        raise ValueError(f"rounds is {rounds}, repeats {repeats}, warmup {warmup}; at least 1, 1 and 0 are needed")
    samples: dict[str, list[list[float]]] = {name: [] for name in calls}
    for _ in tracked(range(rounds), "latency and throughput", unit="rounds"):
        for name, call in calls.items():
            for _ in range(warmup):
                call()
            samples[name].append([_time(call) for _ in range(repeats)])
    return {name: _summary(timed) for name, timed in samples.items()}


def speedup(base: Latency, other: Latency) -> float:
    """Speed of `other` relative to `base`: the median of the ratios of all rounds."""
    return statistics.median(a / b for a, b in zip(base.rounds_ms, other.rounds_ms, strict=True))


def _time(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start)


def _summary(rounds: list[list[float]]) -> Latency:
    flat = sorted(value for values in rounds for value in values)
    p90, p99 = (flat[round(share * (len(flat) - 1))] for share in (0.9, 0.99))
    return Latency(statistics.median(flat), p90, p99, tuple(statistics.median(values) for values in rounds))
