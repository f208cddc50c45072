"""Batches: the same bytes with any number of workers, nothing lost."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from yolov6core.data.augment import TrainTransform
from yolov6core.data.dataset import DetectionDataset
from yolov6core.data.loader import (
    batch_sizes,
    collate,
    epoch_plan,
    eval_batches,
    planned_batches,
    rectangular_batches,
    rectangular_plan,
    train_batches,
)

SIZE = (64, 96)


@pytest.fixture
def dataset(make_dataset) -> DetectionDataset:
    return DetectionDataset(make_dataset(count=7), "train")


def batches(dataset: DetectionDataset, **options) -> list[tuple[torch.Tensor, torch.Tensor]]:
    options = {"batch_size": 2, "seed": 3, "epoch": 0} | options
    return list(train_batches(dataset, TrainTransform(dataset, image_size=SIZE), **options))


def same(first: list, second: list) -> bool:
    pairs = zip(first, second, strict=True)
    return all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in pairs)


def test_bytes_do_not_depend_on_workers(dataset) -> None:
    assert same(batches(dataset, workers=0), batches(dataset, workers=2))


def test_epochs_and_seeds_differ(dataset) -> None:
    first = batches(dataset)
    assert same(first, batches(dataset))
    assert not torch.equal(first[0][0], batches(dataset, epoch=1)[0][0])
    assert not torch.equal(first[0][0], batches(dataset, seed=4)[0][0])


def test_a_sample_does_not_depend_on_its_batch(dataset) -> None:
    transform = TrainTransform(dataset, image_size=SIZE)
    alone = [next(iter(planned_batches(transform, [[i]], seed=1, epoch=2)))[0][0] for i in range(4)]
    together = next(iter(planned_batches(transform, [[0, 1, 2, 3]], seed=1, epoch=2)))[0]
    assert torch.equal(torch.stack(alone), together)


def test_shapes_and_targets(dataset) -> None:
    found = list(batches(dataset, drop_last=False))
    assert sum(len(images) for images, _ in found) == len(dataset) and any(len(targets) for _, targets in found)
    for images, targets in found:
        assert images.dtype == torch.uint8 and images.shape[1:] == (3, *SIZE)
        assert targets.dtype == torch.float32 and targets.shape[1] == 6
        assert set(targets[:, 0].tolist()) <= set(range(len(images)))


def test_last_batch_by_choice() -> None:
    def sizes(count, **options):
        return [len(batch) for batch in epoch_plan(count, batch_size=4, seed=0, epoch=0, **options)]

    assert sizes(10) == [4, 4] and sizes(10, drop_last=False) == [4, 4, 2]
    assert sizes(3) == [3], "a small data set still gives one batch"
    assert sizes(8) == [4, 4] and sizes(8, drop_last=True) == [4, 4]
    with pytest.raises(ValueError, match="no whole batch of 4"):
        sizes(3, drop_last=True)
    with pytest.raises(ValueError, match="cannot make batches"):
        sizes(0)


def test_an_epoch_visits_every_image_once() -> None:
    plans = [sum(epoch_plan(50, batch_size=8, seed=1, epoch=e, drop_last=False), []) for e in range(2)]
    assert sorted(plans[0]) == sorted(plans[1]) == list(range(50)) and plans[0] != plans[1]


def sizes(count: int = 200, **options) -> list[tuple[int, int]]:
    options = {"image_size": (320, 160), "change": 0.5, "stride": 32, "seed": 3, "epoch": 0} | options
    return batch_sizes(count, **options)


def test_input_sizes_vary_within_their_bounds() -> None:
    found = sizes()
    assert {height for height, _ in found} == set(range(160, 481, 32))
    assert {width for _, width in found} == {96, 128, 160, 192, 224}, "80 and 240 are no whole strides"
    assert all(abs(height / 320 - width / 160) <= 0.25 for height, width in found), "both sides change alike"
    assert {height for height, _ in sizes(change=0.1)} == {288, 320, 352}, "the bounds are sizes too"
    assert set(sizes(change=0.0)) == {(320, 160)}


def test_an_input_size_depends_on_seed_epoch_and_position_only() -> None:
    assert sizes()[:7] == sizes(7)
    assert sizes() != sizes(epoch=1) and sizes() != sizes(seed=4)


def test_a_change_of_less_than_a_stride_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"change of 0.09 moves no side .* by a whole stride of 32; give at least 0.1,"
    ):
        sizes(change=0.09)


def test_resized_batches_keep_their_targets_whoever_makes_them(dataset) -> None:
    plan = epoch_plan(7, batch_size=2, seed=3, epoch=0)
    wanted = sizes(len(plan), image_size=SIZE)
    assert len(set(wanted)) > 1

    def resized(first: int = 0, workers: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
        transform = TrainTransform(dataset, image_size=SIZE)
        rest = {"seed": 3, "epoch": 0, "workers": workers, "sizes": wanted[first:]}
        return list(planned_batches(transform, plan[first:], **rest))

    found = resized()
    assert same(found, resized(workers=1)) and same(found[1:], resized(first=1))
    assert [tuple(images.shape[-2:]) for images, _ in found] == wanted
    for (images, targets), (plain, plain_targets) in zip(found, batches(dataset), strict=True):
        assert images.dtype == torch.uint8 and torch.equal(targets, plain_targets)
        expected = torch.nn.functional.interpolate(plain.float(), images.shape[-2:], mode="bilinear")
        assert (images - expected.round()).abs().max() <= 1


def test_collate_numbers_the_images() -> None:
    image = np.zeros((3, 4, 4), np.uint8)
    labels = [np.full((n, 5), n, np.float32) for n in (2, 0, 1)]
    images, targets = collate([(image, rows) for rows in labels])
    assert images.shape == (3, 3, 4, 4)
    assert targets.tolist() == [[0, 2, 2, 2, 2, 2], [0, 2, 2, 2, 2, 2], [2, 1, 1, 1, 1, 1]]
    assert collate([(image, labels[1])])[1].shape == (0, 6)


def test_evaluation_takes_every_image_in_order(dataset) -> None:
    found = list(eval_batches(dataset, image_size=SIZE, batch_size=3))
    assert [batch.image_ids for batch in found] == [[1, 2, 3], [4, 5, 6], [7]]
    for batch in found:
        assert batch.images.dtype == torch.uint8 and batch.images.shape[1:] == (3, *SIZE)
        for image_id, geometry in zip(batch.image_ids, batch.geometry, strict=True):
            source, labels = dataset.load(image_id - 1)
            assert geometry.source_size == source.shape[:2]
            there = geometry.to_network(labels[:, 1:])
            np.testing.assert_allclose(geometry.to_source(there), labels[:, 1:], atol=1e-3)


def test_a_shrunk_picture_leaves_a_grey_frame(dataset) -> None:
    batch = next(iter(eval_batches(dataset, image_size=(64, 64), batch_size=1, shrink=6)))
    assert (batch.images[0, :, :, :3] == 114).all() and (batch.images[0, :, :, -3:] == 114).all()
    with pytest.raises(ValueError, match="shrink 64 leaves nothing"):
        next(iter(eval_batches(dataset, image_size=(64, 64), batch_size=1, shrink=64)))


def test_rectangular_batches_hold_every_image_once(dataset) -> None:
    plan = rectangular_plan(dataset.source_sizes(), image_size=(128, 128), batch_size=2, stride=32)
    assert sorted(index for indices, _ in plan for index in indices) == list(range(7))
    assert all(side % 32 == 0 and side <= 128 for _, size in plan for side in size)
    for (indices, size), batch in zip(plan, rectangular_batches(dataset, plan, image_size=(128, 128)), strict=True):
        assert batch.images.shape[2:] == size and batch.image_ids == [index + 1 for index in indices]


def test_rectangular_batches_leave_the_same_grey_frame(dataset) -> None:
    sizes, shrink = dataset.source_sizes(), 6
    plan = rectangular_plan(sizes, image_size=(128, 128), batch_size=1, stride=32, shrink=shrink)
    square = {
        batch.image_ids[0]: batch.geometry[0]
        for batch in eval_batches(dataset, image_size=(128, 128), batch_size=1, shrink=shrink)
    }
    assert any(min(size) < 128 for _, size in plan)
    for batch in rectangular_batches(dataset, plan, image_size=(128, 128), shrink=shrink):
        assert max(batch.images.shape[2:]) <= 128
        frame = batch.images[0].clone()
        frame[:, 3:-3, 3:-3] = 114
        assert (frame == 114).all(), "3 pixels on every side"
        there = square[batch.image_ids[0]]
        assert (batch.geometry[0].scale_x, batch.geometry[0].scale_y) == (there.scale_x, there.scale_y)
