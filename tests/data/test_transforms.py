"""Transforms: wherever a drawn rectangle goes, its box goes too."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from yolov6core.data.transforms import (
    Affine,
    Letterbox,
    boxes_worth_keeping,
    chw_rgb,
    fitted_size,
    flip_horizontal,
    flip_vertical,
    letterbox,
    network_input,
    normalised_labels,
    pad_to,
    scale_hsv,
    warp_affine,
    warp_boxes,
)

SIZE = (160, 192)


def rectangle(height: int = 120, width: int = 200, box: tuple[int, ...] = (60, 30, 130, 80)):
    image = np.zeros((height, width, 3), np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = 255
    return image, np.array([[1, *box]], dtype=np.float32)


def extent(image: np.ndarray) -> np.ndarray:
    """xyxy of the bright pixels; edges are where the brightness crosses one half, as rectangles cover whole pixels."""
    rows, columns = np.nonzero(image[..., 0] > 180)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def check(image: np.ndarray, labels: np.ndarray, tolerance: float = 1.0) -> None:
    assert labels.dtype == np.float32 and labels.shape == (1, 5) and labels[0, 0] == 1
    np.testing.assert_allclose(labels[0, 1:], extent(image), atol=tolerance)


@pytest.mark.parametrize("size", [(96, 96), (160, 192), (256, 512), (64, 256)])
@pytest.mark.parametrize("nearest", [False, True])
def test_letterbox_moves_the_box_with_the_picture(size, nearest) -> None:
    image, labels = rectangle()
    result, moved, geometry = letterbox(image, labels, size=size, nearest=nearest)
    assert result.shape == (*size, 3)
    check(result, moved, tolerance=1.5)
    np.testing.assert_allclose(geometry.to_source(moved[:, 1:]), labels[:, 1:], atol=1e-4)


def test_letterbox_options() -> None:
    image, labels = rectangle(50, 100, (10, 10, 50, 40))
    kept, _, geometry = letterbox(image, labels, size=(200, 200), enlarge=False)
    assert (geometry.scale_x, geometry.left, geometry.top) == (1.0, 50, 75)
    np.testing.assert_array_equal(kept[75:125, 50:150], image)
    _, _, smaller = letterbox(image, labels, size=(200, 200), inside=(180, 180))
    assert (smaller.scale_x, smaller.left, smaller.top) == (1.8, 10, 55)
    with pytest.raises(ValueError, match="does not fit"):
        letterbox(image, labels, size=(10, 10), inside=(100, 100))


def test_to_source_clips_and_undoes_each_axis_on_its_own() -> None:
    geometry = Letterbox(scale_x=0.5, scale_y=0.25, left=3, top=7, source_size=(40, 60))
    boxes = np.array([[0.0, 0.0, 60.0, 40.0], [10.0, 20.0, 30.0, 36.0]])
    np.testing.assert_allclose(geometry.to_source(geometry.to_network(boxes)), boxes, atol=1e-4)
    np.testing.assert_allclose(geometry.to_source(np.array([[-50.0, -50.0, 900.0, 900.0]])), [[0, 0, 60, 40]])


def test_fitted_size() -> None:
    assert fitted_size((100, 150), (128, 128)) == (85, 128)
    assert fitted_size((98, 128), (64, 64)) == (49, 64)
    assert fitted_size((200, 120), (128, 128)) == (128, 76)
    assert fitted_size((200, 120), (128, 128), nearest=True) == (128, 77)
    assert fitted_size((1, 1000), (64, 64)) == (1, 64)
    assert fitted_size((10, 20), (64, 64), enlarge=False) == (10, 20)
    # the long side must never lose a pixel to float rounding
    assert all(fitted_size((h, h), (320, 320)) == (320, 320) for h in range(1, 3000))


def test_pad_puts_the_odd_pixel_right_and_below() -> None:
    padded, left, top = pad_to(np.zeros((5, 6, 3), np.uint8), (8, 9))
    assert (left, top) == (1, 1)
    assert (padded[1:6, 1:7] == 0).all() and (padded[[0, 6, 7]] == 114).all() and (padded[:, [0, 7, 8]] == 114).all()


def test_flips() -> None:
    image, labels = rectangle()
    for flip in (flip_horizontal, flip_vertical):
        once = flip(image, labels)
        check(*once, tolerance=0)
        again, restored = flip(*once)
        np.testing.assert_array_equal(again, image)
        np.testing.assert_array_equal(restored, labels)


@pytest.mark.parametrize(
    "affine",
    [
        Affine(),
        Affine(scale=1.3),
        Affine(scale=0.6, centre_x=0.4, centre_y=0.6),
        Affine(angle=90),
        Affine(angle=20, scale=0.9),
        Affine(shear_x=10, shear_y=-5),
        Affine(angle=-35, scale=0.7, shear_x=5, shear_y=5, centre_x=0.55),
    ],
)
def test_affine_boxes_bound_the_warped_rectangle(affine) -> None:
    image, labels = rectangle()
    result, moved = warp_affine(image, labels, affine=affine, size=SIZE)
    assert result.shape == (*SIZE, 3)
    # corners of a turned rectangle are thinner than a pixel, so the bright extent falls short of them a little
    check(result, moved, tolerance=2.0 if affine.angle or affine.shear_x else 1.0)


def test_affine_identity_changes_nothing() -> None:
    image, labels = rectangle()
    result, moved = warp_affine(image, labels, affine=Affine(), size=image.shape[:2])
    np.testing.assert_array_equal(result, image)
    np.testing.assert_array_equal(moved, labels)


def test_affine_fills_with_grey_and_drops_what_left() -> None:
    image, labels = rectangle()
    result, moved = warp_affine(image, labels, affine=Affine(centre_x=3.0), size=SIZE)
    assert (result == 114).all() and moved.shape == (0, 5)


def test_warp_boxes_by_hand() -> None:
    quarter = np.array([[0.0, -1, 10], [1, 0, 0], [0, 0, 1]])  # (x, y) -> (10 - y, x)
    np.testing.assert_allclose(warp_boxes(np.array([[1.0, 2, 4, 8]]), quarter), [[2, 1, 8, 4]])
    assert warp_boxes(np.zeros((0, 4)), quarter).shape == (0, 4)


def test_boxes_worth_keeping() -> None:
    before = np.array([[0, 0, 20, 20]] * 4, dtype=float)
    after = np.array([[0, 0, 20, 20], [0, 0, 2, 20], [0, 0, 6, 6], [0, 0, 20, 0.5]], dtype=float)
    assert boxes_worth_keeping(before, after).tolist() == [True, False, False, False]
    long = np.array([[0, 0, 100, 4.0]])
    assert not boxes_worth_keeping(long, long)[0] and boxes_worth_keeping(long, long, max_aspect=30)[0]


def test_hsv_gains() -> None:
    image, _ = rectangle()
    colours = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    assert scale_hsv(colours, (1.0, 1.0, 1.0)) is colours
    assert (scale_hsv(image, (1.0, 1.0, 0.5)).max(), image.max()) == (127, 255)
    grey = scale_hsv(colours, (1.0, 0.0, 1.0))
    assert (grey == grey[..., :1]).all()
    turned = cv2.cvtColor(scale_hsv(colours, (1.5, 1.0, 1.0)), cv2.COLOR_BGR2HSV)
    assert turned[..., 0].max() < 180


def test_channel_order_and_normalisation() -> None:
    image = np.zeros((2, 4, 3), np.uint8)
    image[..., 2] = 200  # red in BGR
    planes = chw_rgb(image)
    assert planes.shape == (3, 2, 4) and planes.flags["C_CONTIGUOUS"] and (planes[0] == 200).all()
    labels = normalised_labels(np.array([[2, 10, 20, 30, 60]], dtype=np.float32), (100, 200))
    np.testing.assert_allclose(labels, [[2, 0.1, 0.4, 0.1, 0.4]])


def test_no_transform_writes_into_its_inputs() -> None:
    image, labels = rectangle()
    before = image.copy(), labels.copy()
    for action in (
        lambda: letterbox(image, labels, size=SIZE),
        lambda: warp_affine(image, labels, affine=Affine(angle=9), size=SIZE),
        lambda: flip_horizontal(image, labels),
        lambda: flip_vertical(image, labels),
        lambda: scale_hsv(image, (0.9, 0.8, 0.7)),
    ):
        action()
        np.testing.assert_array_equal(image, before[0])
        np.testing.assert_array_equal(labels, before[1])


def test_network_input_keeps_the_pixels_and_leaves_its_argument_alone() -> None:
    images = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).reshape(2, 3, 4, 4)
    before = images.clone()
    found = network_input(images)
    assert found.dtype == torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, before.float() / 255)
    assert torch.equal(images, before)
    assert network_input(images, memory_format=torch.contiguous_format).is_contiguous()
