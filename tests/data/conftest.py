"""Fixtures of the tests of data."""

from tests.support.fixtures import make_dataset

__all__ = ["make_dataset"]
