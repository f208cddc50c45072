"""What all tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from torch.utils.data._utils import signal_handling


@pytest.fixture(autouse=True)
def no_signal_handler_is_set() -> Iterator[None]:
    """Keep torch's SIGCHLD handler, which loader processes ask for, out of the test session.

    A process in which that handler stands and an OpenVINO engine has been closed crashes when its next child ends
    (OpenVINO 2026.4.1, Python 3.11). No stage does both; one test session does.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signal_handling, "_set_SIGCHLD_handler", lambda: None)
        yield
