"""Fixtures of the tests of models."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def seed() -> None:
    """Make weights and images of every test repeatable."""
    torch.manual_seed(0)
