import time

import pytest

from yolov6core.engines import latency
from yolov6core.engines.latency import Latency, measure, speedup


def test_candidates_take_turns():
    order = []
    found = measure({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2, repeats=2, warmup=1)
    assert order == ["a"] * 3 + ["b"] * 3 + ["a"] * 3 + ["b"] * 3
    assert len(found["a"].rounds_ms) == 2
    assert found["a"].median_ms <= found["a"].p90_ms <= found["a"].p99_ms


def test_speedup_is_the_median_of_the_rounds():
    base, other = Latency(4, 4, 4, (4.0, 40.0, 4.0)), Latency(2, 2, 2, (2.0, 10.0, 2.0))
    assert speedup(base, other) == 2.0


def test_percentiles_are_those_of_all_calls(monkeypatch):
    times = iter(range(1, 101))
    monkeypatch.setattr(latency, "_time", lambda call: float(next(times)))
    found = measure({"a": lambda: None}, rounds=4, repeats=25, warmup=0)["a"]
    assert (found.median_ms, found.p90_ms, found.p99_ms) == (50.5, 90.0, 99.0)
    assert found.rounds_ms == (13.0, 38.0, 63.0, 88.0)


def test_a_sleeping_call_takes_its_time():
    found = measure({"sleep": lambda: time.sleep(0.01)}, rounds=1, repeats=3, warmup=0)
    assert 9 < found["sleep"].median_ms < 100


def test_nothing_to_measure_is_refused():
    with pytest.raises(ValueError, match="rounds is 0"):
        measure({}, rounds=0)
