"""Images to look at: chosen by name, drawn by seed and class, and augmented as a training gets them."""

from __future__ import annotations

import numpy as np
import pytest

from yolov6core.base.errors import UserError
from yolov6core.data.dataset import DetectionDataset
from yolov6core.data.epochs import TrainingBatches
from yolov6core.data.samples import augmented, images_drawn, images_named

AUGMENT = {"mosaic": 0.5, "scale": 0.5, "hsv_v": 0.4, "flip_lr": 0.5, "translate": 0.1, "multi_scale": 0.0}


@pytest.fixture
def dataset(make_dataset) -> DetectionDataset:
    return DetectionDataset(make_dataset(count=8), "train")


def test_names_are_found_in_the_order_given(dataset) -> None:
    assert images_named(dataset, ["picture_003.png", "picture_001.png"]) == [2, 0]
    assert images_named(dataset, [dataset.paths[4].as_posix()]) == [4]


def test_names_that_fit_none_or_several_are_answered(dataset) -> None:
    with pytest.raises(UserError, match=r"split train of .* is called picture_03.png; did you mean .*picture_003.png"):
        images_named(dataset, ["picture_03.png"])
    dataset.paths[1] = dataset.paths[0].parent / "other" / dataset.paths[0].name
    with pytest.raises(UserError, match=r"2 images of .* are called picture_001.png; give the whole path"):
        images_named(dataset, ["picture_001.png"])
    assert images_named(dataset, [dataset.paths[1].as_posix()]) == [1]


def test_drawn_images_follow_the_seed(dataset) -> None:
    first = images_drawn(dataset, 4, seed=0)
    assert first == images_drawn(dataset, 4, seed=0) == sorted(set(first)) and len(first) == 4
    assert any(first != images_drawn(dataset, 4, seed=seed) for seed in range(1, 5))
    assert images_drawn(dataset, 100, seed=0) == list(range(8))


def test_drawn_images_have_the_class(dataset) -> None:
    for label, name in enumerate(dataset.names):
        having = [i for i in range(8) if label in dataset.load(i)[1][:, 0]]
        assert images_drawn(dataset, 100, seed=0, with_class=name) == having
    with pytest.raises(UserError, match="no class is called dog; the dataset has disc, square, cross"):
        images_drawn(dataset, 1, seed=0, with_class="dog")


@pytest.mark.parametrize("epoch", [0, 2])
def test_augmented_images_are_those_of_the_training(dataset, epoch) -> None:
    batches = TrainingBatches(
        dataset,
        augment=AUGMENT,
        image_size=(64, 96),
        stride=32,
        batch_size=8,
        epochs=3,
        close_mosaic_epochs=0,
        seed=5,
    )
    ((images, targets),) = batches(epoch)
    (order,) = batches._plan(epoch)
    for position, index in enumerate(order):
        image, labels = augmented(batches._full, index, seed=5, epoch=epoch)
        assert np.array_equal(image, images[position].numpy()[::-1].transpose(1, 2, 0))
        own = targets[targets[:, 0] == position].numpy()
        assert np.array_equal(labels[:, 0], own[:, 1])
        np.testing.assert_allclose((labels[:, 3] - labels[:, 1]) / 96, own[:, 4], atol=1e-6)
        np.testing.assert_allclose((labels[:, 2] + labels[:, 4]) / 2 / 64, own[:, 3], atol=1e-6)
