"""Letterbox, HSV, affine, mosaic and mixup against recorded results of the official code.

Images are compared bit for bit where the reference allows it; where two OpenCV versions differ by up to 2 grey levels
on up to 12 percent of the pixels, so may we. Labels: 1e-3 px.
"""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from yolov6core.data.augment import mixup, mosaic
from yolov6core.data.transforms import Affine, boxes_worth_keeping, fitted_size, letterbox, scale_hsv, warp_affine


def cases(arrays, kind: str) -> list[str]:
    found = sorted({"/".join(name.split("/")[:2]) for name in arrays.files if name.startswith(f"{kind}/")})
    assert found, f"the record holds no {kind}"
    return found


def both_sides(shape) -> tuple[int, int]:
    sides = [shape] if isinstance(shape, int) else list(shape)
    return (sides[0], sides[-1])


def assert_image_close(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    difference = np.abs(found.astype(int) - expected)
    assert difference.max() <= 2 and (difference > 0).any(axis=-1).mean() <= 0.12


def labels_of(arrays, name: str) -> np.ndarray:
    return (arrays[name] if name in arrays.files else np.zeros((0, 5))).astype(np.float32)


def test_letterbox(golden) -> None:
    arrays, meta = golden("augment.npz")
    for name in cases(arrays, "letterbox"):
        case, image = meta[name], arrays[f"{name}/image"]
        inside = size = both_sides(case["new_shape"])
        options = {"enlarge": case["scaleup"], "nearest": True}
        if case["auto"]:  # the padding, not the picture, is cut down to what a whole number of strides needs
            fitted = fitted_size(image.shape[:2], inside, **options)
            size = tuple(side + (full - side) % case["stride"] for side, full in zip(fitted, inside, strict=True))
        result, _, geometry = letterbox(
            image, np.zeros((0, 5), np.float32), size=size, inside=inside, interpolation=cv2.INTER_LINEAR, **options
        )
        np.testing.assert_array_equal(result, arrays[f"{name}/result"], err_msg=name)
        assert [geometry.left, geometry.top] == case["left_top"], name


def test_hsv(golden) -> None:
    arrays, meta = golden("augment.npz")
    for name in cases(arrays, "hsv"):
        strengths = np.array([meta[name][key] for key in ("hgain", "sgain", "vgain")])
        gains = 1 + arrays[f"{name}/raw_draws"] * strengths
        np.testing.assert_allclose(gains, arrays[f"{name}/gains"], rtol=1e-12)
        result = scale_hsv(arrays[f"{name}/image"], tuple(gains))
        np.testing.assert_array_equal(result, arrays[f"{name}/result"], err_msg=name)


def test_affine(golden) -> None:
    arrays, meta = golden("augment.npz")
    for name in cases(arrays, "affine"):
        image, size = arrays[f"{name}/image"], both_sides(meta[name]["new_shape"])
        affine = Affine(*arrays[f"{name}/uniform_draws_low_high_value"][:, 2])
        np.testing.assert_allclose(affine.matrix(image.shape[:2], size), arrays[f"{name}/matrix_3x3"], atol=1e-9)
        labels = labels_of(arrays, f"{name}/labels_cls_xyxy_pixels")
        result, moved = warp_affine(image, labels, affine=affine, size=size)
        assert_image_close(result, arrays[f"{name}/result"])
        expected = labels_of(arrays, f"{name}/result_labels_cls_xyxy_pixels")
        np.testing.assert_allclose(moved, expected, atol=1e-3, err_msg=name)


def test_mosaic(golden) -> None:
    arrays, meta = golden("augment.npz")
    for name in cases(arrays, "mosaic"):
        size, draws = both_sides(meta[name]["shape"]), arrays[f"{name}/uniform_draws_low_high_value"][:, 2]
        samples = []
        for i in range(4):
            image, labels = arrays[f"{name}/image{i}"], arrays[f"{name}/labels{i}_cls_cxcywh_normalised"]
            half, scale = labels[:, 3:5] / 2, np.array([image.shape[1], image.shape[0]])
            corners = ((labels[:, 1:3] - half) * scale, (labels[:, 1:3] + half) * scale)
            samples.append((image, np.concatenate((labels[:, :1], *corners), axis=1).astype(np.float32)))
        canvas, labels = mosaic(samples, size=size, centre=(int(draws[0]), int(draws[1])))
        result, labels = warp_affine(canvas, labels, affine=Affine(*draws[2:]), size=size)
        assert_image_close(result, arrays[f"{name}/result"])
        expected = labels_of(arrays, f"{name}/result_labels_cls_xyxy_pixels")
        np.testing.assert_allclose(labels, expected, atol=1e-3, err_msg=name)


def test_mixup(golden) -> None:
    arrays, _ = golden("augment.npz")
    first, second = ((arrays[f"mixup/image_{x}"], arrays[f"mixup/labels_{x}"]) for x in "ab")
    image, labels = mixup(first, second, share=float(arrays["mixup/lambda"]))
    np.testing.assert_array_equal(image, arrays["mixup/result"])
    np.testing.assert_allclose(labels, arrays["mixup/result_labels"], atol=1e-3)


def test_which_boxes_stay(golden) -> None:
    arrays, _ = golden("augment.npz")
    before, after = (arrays[f"box_candidates/{name}_xyxy"] for name in ("before", "after"))
    keeps = [name for name in arrays.files if name.startswith("box_candidates/keep_area")]
    if not keeps:
        pytest.skip("no recorded decisions in this file")
    for name in keeps:
        kept = boxes_worth_keeping(before, after, min_area_left=float(name.removeprefix("box_candidates/keep_area")))
        np.testing.assert_array_equal(kept, arrays[name], err_msg=name)
