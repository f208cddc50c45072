"""Fixtures of the tests of exchange."""

from tests.support.fixtures import distance, images, one_thread, run_torch, toy_net

__all__ = ["distance", "images", "one_thread", "run_torch", "toy_net"]
