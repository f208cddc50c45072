"""What all tests share."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def no_signal_handler_is_left_behind() -> Iterator[None]:
    """Loader processes leave torch's SIGCHLD handler behind, for the rest of the test session.

    A process in which that handler stands and an OpenVINO engine has been closed crashes when its next child ends
    (OpenVINO 2026.4.1, Python 3.11). No stage does both; one test session does.
    """
    before = signal.getsignal(signal.SIGCHLD)
    yield
    signal.signal(signal.SIGCHLD, before)
