"""A dataset in other batches than its own."""

from __future__ import annotations

import pytest
import torch

from tests.support.dataset_folder import make_dataset
from yolov6core.data.dataset import DetectionDataset
from yolov6core.data.views import DatasetView

SIZE = (64, 96)
BATCH_MIB = 2 * 3 * 64 * 96 / 2**20
"""Of a batch of two images."""


def passes(view, times):
    return [list(view.eval_batches(image_size=SIZE, batch_size=2)) for _ in range(times)]


@pytest.mark.parametrize("stride", [None, 32])
@pytest.mark.parametrize("cache_mib", [0, 1])
def test_every_pass_gives_the_same(tmp_path, stride, cache_mib):
    dataset = DetectionDataset(make_dataset(tmp_path), "val")
    expected = passes(DatasetView(dataset, stride=stride), 1)[0]
    for found in passes(DatasetView(dataset, stride=stride, cache_mib=cache_mib), 2):
        for batch, other in zip(found, expected, strict=True):
            assert torch.equal(batch.images, other.images)
            assert (batch.image_ids, batch.geometry) == (other.image_ids, other.geometry)


@pytest.mark.parametrize("room, decoded", [(0, 12), (1, 10), (100, 6)])
def test_images_are_decoded_once_while_there_is_room(tmp_path, monkeypatch, room, decoded):
    """Six images, two passes; `room` in batches."""
    dataset = DetectionDataset(make_dataset(tmp_path), "val")
    view = DatasetView(dataset)
    view._room = room * BATCH_MIB * 2**20
    loaded = []
    load = dataset.load
    monkeypatch.setattr(dataset, "load", lambda index: (loaded.append(index), load(index))[1])
    passes(view, 2)
    assert len(loaded) == decoded


def test_another_size_is_another_batch(tmp_path):
    view = DatasetView(DetectionDataset(make_dataset(tmp_path), "val"), cache_mib=1)
    for side in (64, 96):
        (batch, *_) = view.eval_batches(image_size=(side, side), batch_size=2)
        assert batch.images.shape == (2, 3, side, side)
