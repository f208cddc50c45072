"""Mosaic, mixup and the training composition."""

from __future__ import annotations

import numpy as np
import pytest

from yolov6core.data import augment
from yolov6core.data.augment import Strengths, TrainTransform, mixup, mosaic
from yolov6core.data.dataset import DetectionDataset

CALM = {
    "mosaic": 0.0, "mixup": 0.0, "degrees": 0.0, "translate": 0.0, "scale": 0.0, "shear": 0.0,
    "hsv_h": 0.0, "hsv_s": 0.0, "hsv_v": 0.0, "flip_lr": 0.0, "flip_ud": 0.0,
}  # fmt: skip


def test_mosaic_places_four_images_around_the_centre() -> None:
    samples = []
    for position in range(4):
        image = np.full((40, 60, 3), 10 + position, np.uint8)
        samples.append((image, np.array([[position, 0, 0, 60, 40]], dtype=np.float32)))
    canvas, labels = mosaic(samples, size=(64, 64), centre=(50, 70))
    assert canvas.shape == (128, 128, 3)
    np.testing.assert_array_equal(
        labels,
        [[0, 10, 10, 70, 50], [1, 70, 10, 128, 50], [2, 10, 50, 70, 90], [3, 70, 50, 128, 90]],
    )
    for label, x1, y1, x2, y2 in labels.astype(int):
        assert (canvas[y1:y2, x1:x2] == 10 + label).all()
    assert (canvas == 114).sum() == 3 * (128 * 128 - 2 * 40 * 60 - 2 * 40 * 58)


def test_mosaic_boxes_follow_bright_rectangles() -> None:
    samples = []
    for position in range(4):
        image = np.zeros((64, 64, 3), np.uint8)
        image[20:50, 5:45] = 200 + position
        samples.append((image, np.array([[position, 5, 20, 45, 50]], dtype=np.float32)))
    canvas, labels = mosaic(samples, size=(64, 64), centre=(40, 33))
    assert sorted(labels[:, 0]) == [0, 1, 2, 3], "a part of every rectangle is in sight"
    for label, *box in labels:
        rows, columns = np.nonzero(canvas[..., 0] == 200 + label)
        np.testing.assert_array_equal(box, [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def test_mosaic_takes_four() -> None:
    with pytest.raises(ValueError, match="takes 4 images, got 1"):
        mosaic([(np.zeros((4, 4, 3), np.uint8), np.zeros((0, 5), np.float32))], size=(8, 8), centre=(8, 8))


def test_mixup_blends_and_keeps_all_labels() -> None:
    first = np.full((4, 4, 3), 100, np.uint8), np.array([[0, 0, 0, 2, 2]], dtype=np.float32)
    second = np.full((4, 4, 3), 200, np.uint8), np.array([[1, 1, 1, 3, 3]], dtype=np.float32)
    image, labels = mixup(first, second, share=0.75)
    assert (image == 125).all() and image.dtype == np.uint8
    assert labels[:, 0].tolist() == [0, 1]


def test_without_strength_a_sample_is_the_letterboxed_image(make_dataset) -> None:
    dataset = DetectionDataset(make_dataset(count=3), "train")
    transform = TrainTransform(dataset, image_size=(128, 160), **CALM)
    image, labels = transform(0, np.random.default_rng(0))
    source, truth = dataset.load_fitted(0, (128, 160))
    assert image.shape == (3, 128, 160) and image.dtype == np.uint8 and labels.dtype == np.float32
    top, left = (128 - source.shape[0]) // 2, (160 - source.shape[1]) // 2
    inner = image[:, top : top + source.shape[0], left : left + source.shape[1]]
    np.testing.assert_array_equal(inner, source.transpose(2, 0, 1)[::-1])
    centres = (truth[:, 1:3] + truth[:, 3:5]) / 2 + [left, top]
    np.testing.assert_allclose(labels[:, 1:3] * [160, 128], centres, atol=1e-3)


@pytest.mark.parametrize("strengths", [{}, {"mixup": 1.0}, {"mosaic": 0.0, "flip_ud": 1.0, "degrees": 20, "shear": 5}])
def test_samples_depend_on_the_generator_alone(make_dataset, strengths) -> None:
    dataset = DetectionDataset(make_dataset(count=6), "train")
    transform = TrainTransform(dataset, image_size=(96, 128), **strengths)
    pictures = []
    for seed in (1, 1, 2):
        image, labels = transform(2, np.random.default_rng(seed))
        assert image.shape == (3, 96, 128) and image.flags["C_CONTIGUOUS"]
        assert labels.shape[1] == 5 and set(labels[:, 0]) <= {0.0, 1.0, 2.0}
        half = labels[:, 3:5] / 2
        assert (labels[:, 1:3] - half > -1e-6).all() and (labels[:, 1:3] + half < 1 + 1e-6).all()
        assert (labels[:, 3:5] * [128, 96] > 2).all()
        pictures.append((image, labels))
    np.testing.assert_array_equal(pictures[0][0], pictures[1][0])
    np.testing.assert_array_equal(pictures[0][1], pictures[1][1])
    assert not np.array_equal(pictures[0][0], pictures[2][0])


def test_mosaic_finds_its_way_with_images_without_objects(make_dataset) -> None:
    folder = make_dataset(count=2)
    for path in (folder / "labels").iterdir():
        path.write_text("")
    transform = TrainTransform(DetectionDataset(folder, "train"), image_size=(64, 64), mosaic=1.0, mixup=1.0)
    assert transform(0, np.random.default_rng(0))[1].shape == (0, 5)


def test_training_samples_leave_the_cache_untouched(make_dataset, tmp_path) -> None:
    dataset = DetectionDataset(make_dataset(count=4), "train")
    dataset.keep_fitted((64, 64), kind="ram", limit_mib=8, folder=tmp_path)
    before = [dataset.load_fitted(i, (64, 64))[0].copy() for i in range(4)]
    for strengths in ({}, CALM | {"hsv_v": 0.9}, CALM | {"flip_lr": 1.0}):
        transform = TrainTransform(dataset, image_size=(64, 64), **strengths)
        for index in range(4):
            transform(index, np.random.default_rng(index))
    for index in range(4):
        np.testing.assert_array_equal(dataset.load_fitted(index, (64, 64))[0], before[index])


@pytest.mark.parametrize(("name", "value"), [("mosaic", 1.5), ("flip_lr", -0.1), ("hsv_s", 2.0), ("scale", 1.0)])
def test_impossible_strengths_are_refused(name, value) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        Strengths(**{name: value})


def test_drawn_parameters_stay_in_their_ranges() -> None:
    strengths, rng = Strengths(degrees=10, translate=0.2, scale=0.4, shear=3), np.random.default_rng(0)
    drawn = [strengths.draw_affine(rng) for _ in range(300)]
    assert max(abs(a.angle) for a in drawn) <= 10 and max(abs(a.shear_x) for a in drawn) <= 3
    assert 0.6 <= min(a.scale for a in drawn) < 0.7 and 1.3 < max(a.scale for a in drawn) <= 1.4
    assert 0.3 <= min(a.centre_x for a in drawn) < 0.35 and 0.65 < max(a.centre_y for a in drawn) <= 0.7
    gains = np.array([strengths.draw_hsv(rng) for _ in range(300)])
    assert (np.abs(gains - 1).max(axis=0) <= [0.015, 0.7, 0.4]).all()


@pytest.mark.parametrize("mosaic", [0.0, 1.0])
def test_a_broken_image_does_not_stop_training(make_dataset, caplog, mosaic) -> None:
    dataset = DetectionDataset(make_dataset(count=6), "train")
    transform = TrainTransform(dataset, image_size=(64, 64), mosaic=mosaic)
    dataset.paths[0].write_bytes(b"no picture")
    for _ in range(2):
        image, labels = transform(0, np.random.default_rng(0))
        assert image.shape == (3, 64, 64) and np.isfinite(labels).all()
    assert [record.levelname for record in caplog.records] == ["WARNING"], "told once"
    assert "picture_001.png cannot be decoded" in caplog.text and "grey picture" in caplog.text
    dataset.paths[1].unlink()
    with pytest.raises(ValueError, match="picture_002.png cannot be read"):
        for _ in range(20):
            transform(1, np.random.default_rng(0))


def test_a_mosaic_does_not_reach_into_the_next(make_dataset) -> None:
    """The canvas is used again: samples must not depend on earlier ones."""
    dataset = DetectionDataset(make_dataset(count=6), "train")
    options = {"image_size": (64, 64), "mosaic": 1.0, "mixup": 1.0, "hsv_h": 0.0, "hsv_s": 0.0, "hsv_v": 0.0}
    used = TrainTransform(dataset, **options)
    first = used(0, np.random.default_rng(0))[0].copy()
    kept = used(1, np.random.default_rng(1))[0]
    before = kept.copy()
    np.testing.assert_array_equal(used(0, np.random.default_rng(0))[0], first)
    np.testing.assert_array_equal(kept, before)


@pytest.mark.parametrize(
    "strengths",
    [
        {"scale": 0.9, "translate": 0.5},
        *(
            pytest.param(other, marks=pytest.mark.slow)
            for other in ({}, {"degrees": 20.0}, {"shear": 5.0, "scale": 0.9})
        ),
    ],
    ids=str,
)
def test_images_out_of_sight_are_not_read_and_nobody_sees_it(make_dataset, monkeypatch, strengths) -> None:
    """Pixels, boxes and random numbers equal a mosaic of all four images."""
    dataset = DetectionDataset(make_dataset(), "train")
    transform = TrainTransform(dataset, image_size=(96, 128), mosaic=1.0, mixup=0.2, **strengths)
    read = []
    load = transform._load
    monkeypatch.setattr(transform, "_load", lambda index: read.append(index) or load(index))

    def samples() -> list:
        read.clear()
        return [transform(seed % len(dataset), np.random.default_rng(seed)) for seed in range(150)]

    found, needed = samples(), len(read)
    monkeypatch.setattr(augment, "visible_quarters", lambda *_: (True,) * 4)
    for (image, labels), (wanted, wanted_labels) in zip(found, samples(), strict=True):
        np.testing.assert_array_equal(image, wanted)
        np.testing.assert_array_equal(labels, wanted_labels)
    turned = "degrees" in strengths or "shear" in strengths
    assert needed == len(read) if turned else 0.6 * len(read) < needed < 0.95 * len(read)
