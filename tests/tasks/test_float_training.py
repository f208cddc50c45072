"""Batches of a training of the float network."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.dataset_folder import NAMES, make_dataset
from tests.support.pipeline import section, small_card
from yolov6core.base.errors import UserError
from yolov6core.data.dataset import DetectionDataset
from yolov6core.data.epochs import TrainingBatches
from yolov6core.tasks.float_training import training_batches
from yolov6core.training.distributed import ProcessGroup
from yolov6core.training.recipe import Recipe


def recipe(**changes: object) -> Recipe:
    values = {"epochs": 3, "batch_size": 2, "lr": 0.1, "final_lr_factor": 0.1, "momentum": 0.9, "weight_decay": 0.0}
    values |= {"warmup_epochs": 0.0, "close_mosaic_epochs": 1, "eval_every": 1, "seed": 0}
    return Recipe(**values | changes)


def batches(folder: Path, *, processes: ProcessGroup | None = None, **augment: float) -> TrainingBatches:
    dataset = DetectionDataset(make_dataset(folder), "train")
    settings = section("augment", **augment).model_dump()
    card = small_card(tuple(NAMES), size=(64, 96))
    return training_batches(dataset, card, recipe(), augment=settings, processes=processes)


def test_batches_have_the_size_of_the_network(tmp_path):
    found = batches(tmp_path)
    images = [images for images, _ in found(0, 0)]
    assert len(images) == len(found) == 3
    assert {tuple(batch.shape) for batch in images} == {(2, 3, 64, 96)}


def test_sizes_vary_in_whole_strides_until_the_plain_epochs(tmp_path):
    found = batches(tmp_path, multi_scale=0.5)
    sizes = [
        {tuple(images.shape[-2:]) for epoch in epochs for images, _ in found(epoch, 0)} for epochs in ((0, 1), (2,))
    ]
    assert len(sizes[0]) > 1 and sizes[1] == {(64, 96)}
    assert all(side % 32 == 0 for size in sizes[0] for side in size)


def test_a_process_gets_its_share_of_every_batch(tmp_path):
    found = batches(tmp_path, processes=ProcessGroup(rank=1, count=2))
    assert [len(images) for images, _ in found(0, 0)] == [1, 1, 1]


def test_a_scale_below_one_stride_is_named_by_its_parameter(tmp_path):
    with pytest.raises(UserError, match=r"^augment\.multi_scale: .*stride"):
        batches(tmp_path, multi_scale=0.1)
