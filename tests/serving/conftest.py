"""Fixtures of the tests of serving."""

from tests.support.fixtures import one_thread

__all__ = ["one_thread"]
