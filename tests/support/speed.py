"""Which cases of a long list run in the fast part of the tests."""

from __future__ import annotations

from collections.abc import Iterable

import pytest


def slow_except(cases: Iterable[str], *fast: str) -> list:
    """Parameters of a test: all cases, marked slow but for the named ones."""
    cases = list(cases)
    assert set(fast) <= set(cases), f"no such case: {set(fast) - set(cases)}"
    return [case if case in fast else pytest.param(case, marks=pytest.mark.slow) for case in cases]
