"""Items ahead and work behind: order, errors, and the end of the threads."""

from __future__ import annotations

import threading
import time

import pytest

from yolov6core.base.overlap import Behind, ahead


def alive() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name in ("ahead", "behind")]


def test_items_come_in_order_and_are_made_ahead():
    made = []

    def items():
        for number in range(20):
            made.append(number)
            yield number

    found = ahead(items(), 3)
    assert next(found) == 0
    deadline = time.monotonic() + 5
    while len(made) < 5 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.02)
    assert len(made) == 5, "one in use, three in the line, and one that waits for a place there"
    assert list(found) == list(range(1, 20)) and not alive()


def test_an_error_comes_after_the_items_before_it():
    def items():
        yield from range(3)
        raise OSError("broken off")

    found = []
    with pytest.raises(OSError, match="broken off"):
        found.extend(ahead(items(), 1))
    assert found == [0, 1, 2] and not alive()


def test_whoever_stops_early_leaves_no_thread_and_a_closed_source():
    closed = []

    def items():
        try:
            while True:
                yield 0
        finally:
            closed.append(True)

    found = ahead(items(), 2)
    next(found)
    found.close()
    assert closed == [True] and not alive()


def test_work_is_done_in_order_before_the_end():
    done = []
    with Behind(2) as behind:
        for number in range(10):
            behind.do(lambda number=number: time.sleep(0.001) or done.append(number))
    assert done == list(range(10)) and not alive()


def test_work_that_waits_is_done_although_the_caller_fails():
    done = []
    with pytest.raises(KeyboardInterrupt), Behind(5) as behind:
        for number in range(4):
            behind.do(lambda number=number: time.sleep(0.005) or done.append(number))
        raise KeyboardInterrupt
    assert done == [0, 1, 2, 3] and not alive()


@pytest.mark.parametrize("later", [0, 50])
def test_an_error_of_the_work_reaches_the_caller_and_stops_what_follows(later):
    done = []

    def broken():
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), Behind(2) as behind:
        behind.do(broken)
        for _ in range(later):
            behind.do(lambda: done.append(1))
    assert not done and not alive()
