"""One toy network per dialect, an image, and how far two outputs are apart."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

_spec = importlib.util.spec_from_file_location("toy", Path(__file__).with_name("toy.py"))
toy = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(toy)
SHAPE = (1, 3, 32, 32)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def toy_net():
    """The class of toy networks: toy_net(dialect, exact=False)."""
    return toy.ToyNet


@pytest.fixture(scope="session")
def images():
    """Four images [4, 3, 32, 32]."""
    return np.random.default_rng(0).random((4, *SHAPE[1:]), dtype=np.float32)


@pytest.fixture(scope="session")
def distance():
    """Relative L2 distance of two (boxes, scores) pairs, the larger of both."""

    def relative(found, wanted):
        return max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in zip(found, wanted, strict=True))

    return relative


@pytest.fixture(scope="session")
def run_torch():
    """Outputs of a module as arrays."""

    def run(module, images):
        with torch.inference_mode():
            return tuple(output.numpy() for output in module.eval()(torch.from_numpy(images)))

    return run
