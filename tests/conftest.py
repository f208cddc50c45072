"""What all tests share."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.utils.data._utils import signal_handling


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that send signals to their own process come first: see `no_signal_handler_is_set`.

    With several processes, `make test` keeps this order (`--no-loadscope-reorder`), so that they are a process's first.
    """
    items.sort(key=lambda item: item.path.name != "test_resume.py")


@pytest.fixture(autouse=True)
def seed() -> None:
    """Make weights, images and draws of every test repeatable."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_signal_handler_is_set() -> Iterator[None]:
    """Keep torch's SIGCHLD handler, which loader processes ask for, out of the test session.

    A process in which an OpenVINO engine has been closed crashes when a signal reaches a handler of Python's, such as
    this one when the next child ends (OpenVINO 2026.4.1, Python 3.11). No stage does both; one test session does.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signal_handling, "_set_SIGCHLD_handler", lambda: None)
        yield
