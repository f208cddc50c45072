"""What all tests share."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.utils.data._utils import signal_handling

FIRST = (
    "test_resume.py",
    *("test_docs_commands.py", "test_families.py", "test_engines.py", "test_export_onnx.py", "test_exact_sums.py"),
)
"""Files whose tests come first, in this order.

The first sends signals to its own process, and has to be a process's first: see `no_signal_handler_is_set`. The others
take minutes: at the end, all processes but one would wait for them.
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bring items into order. With several processes, `make test` keeps it (`--no-loadscope-reorder`)."""
    place = {name: number for number, name in enumerate(FIRST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


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
