"""Bars as the library names them; what is drawn of them is tested with the stages."""

from __future__ import annotations

import threading

import pytest

from yolov6core.base import progress
from yolov6core.base.progress import Bar, Progress, shown_by, tracked, working


class Recorded(Progress):
    """Notes what happens to bars."""

    shown = True

    def __init__(self) -> None:
        self.events: list[tuple[str, str, int]] = []

    def started(self, bar: Bar) -> None:
        self.events.append(("started", bar.title, bar.done))

    def moved(self, bar: Bar) -> None:
        self.events.append(("moved", bar.title, bar.done))

    def ended(self, bar: Bar) -> None:
        self.events.append(("ended", bar.title, bar.done))


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """A list whose last entry is the time."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[-1])
    return now


def test_items_count_when_the_next_one_is_asked_for():
    recorded = Recorded()
    with shown_by(recorded):
        assert list(tracked([3, 4], "work", count=lambda item: item)) == [3, 4]
    assert recorded.events == [("started", "work", 0), ("moved", "work", 3), ("moved", "work", 7), ("ended", "work", 7)]


def test_the_number_of_items_is_the_total_unless_another_is_given():
    totals = []

    class Totals(Progress):
        def started(self, bar: Bar) -> None:
            totals.append(bar.total)

    with shown_by(Totals()):
        for items, total in (([1, 2], None), ([1, 2], 5), (iter([1, 2]), None)):
            list(tracked(items, "work", total=total))
    assert totals == [2, 5, None]


def test_work_inside_other_work_ends_first_and_errors_end_it():
    recorded = Recorded()
    with pytest.raises(ZeroDivisionError), shown_by(recorded), working("outer"), working("inner"):
        raise ZeroDivisionError
    assert [event[:2] for event in recorded.events][2:] == [("ended", "inner"), ("ended", "outer")]


def test_nothing_is_told_outside_and_in_other_threads():
    recorded = Recorded()
    with shown_by(recorded):
        thread = threading.Thread(target=lambda: list(tracked([1], "elsewhere")))
        thread.start()
        thread.join()
    with working("after it") as bar:
        bar.add()
    assert recorded.events == [] and bar.done == 1 and not bar.progress.shown


def test_time_left_counts_from_where_this_run_began(clock):
    with working("epoch", total=100, done=40, later=200) as bar:
        assert bar.rate() is None and bar.left() is None, "nothing is done yet"
        clock.append(102.0)
        bar.reach(60, {"total": 1.5})
    assert bar.rate() == 10.0 and bar.left() == (4.0, 24.0) and bar.figures == {"total": 1.5}


def test_more_than_the_total_leaves_no_negative_time(clock):
    with working("work", total=10) as bar:
        clock.append(101.0)
        bar.add(12)
    assert bar.left() == (0.0, 0.0)


def test_without_a_total_no_time_is_told(clock):
    with working("work") as bar:
        clock.append(101.0)
        bar.add(12)
    assert bar.rate() == 12.0 and bar.left() is None
