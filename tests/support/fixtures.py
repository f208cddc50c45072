"""Fixtures of several test packages; their conftest files import them by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support import toy
from tests.support.dataset_folder import make_dataset as write_dataset_folder

SHAPE = (1, 3, 32, 32)


@pytest.fixture
def make_dataset(tmp_path: Path):
    """Writes a dataset folder under `tmp_path` and returns it; see `dataset_folder.make_dataset`."""
    return lambda **options: write_dataset_folder(tmp_path, **options)


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
