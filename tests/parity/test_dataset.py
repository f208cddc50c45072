"""The loading of images and labels against the official data set class: images bit for bit where OpenCV agrees."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from yolov6core.data.dataset import DetectionDataset
from yolov6core.data.loader import eval_batches, rectangular_batches, rectangular_plan
from yolov6core.data.transforms import (
    Affine,
    chw_rgb,
    flip_horizontal,
    flip_vertical,
    normalised_labels,
    pad_to,
    scale_hsv,
    warp_affine,
    with_boxes,
)


@pytest.fixture
def reference(golden, tmp_path):
    """Arrays, meta data and the recorded sources as a dataset folder."""
    arrays, meta = golden("dataset.npz")
    names = sorted({name.split("/")[1] for name in arrays.files if name.startswith("source/")})
    (tmp_path / "labels").mkdir()
    highest = 0
    for name in names:
        cv2.imwrite(str(tmp_path / f"{name}.png"), arrays[f"source/{name}/image_bgr"])
        labels = arrays[f"source/{name}/labels_cls_cxcywh"]
        highest = max(highest, int(labels[:, 0].max(initial=0)))
        rows = (" ".join([str(int(row[0])), *(repr(float(value)) for value in row[1:])]) for row in labels)
        (tmp_path / "labels" / f"{name}.txt").write_text("\n".join(rows))
    (tmp_path / "train.txt").write_text("\n".join((tmp_path / f"{name}.png").as_posix() for name in names))
    (tmp_path / "dataset.yaml").write_text(f"names: {[f'class{i}' for i in range(highest + 1)]}")
    return arrays, meta, DetectionDataset(tmp_path, "train"), names


def check_batches(reference, mode: str, batches) -> None:
    """Compare image, geometry and labels of every item with the record."""
    arrays, meta, dataset, names = reference
    items = meta[mode]["items_in_order"]
    found = [
        (image.numpy(), image_id, geometry)
        for batch in batches
        for image, image_id, geometry in zip(batch.images, batch.image_ids, batch.geometry, strict=True)
    ]
    assert [names[image_id - 1] for _, image_id, _ in found] == [item["source"] for item in items]
    for number, ((image, image_id, geometry), item) in enumerate(zip(found, items, strict=True)):
        expected = arrays[f"{mode}/{number}/image_chw_rgb_uint8"]
        np.testing.assert_array_equal(image, expected, err_msg=f"{mode} {number}")
        (height, width), ((ratio_y, ratio_x), (left, top)) = item["shape_record"]
        assert geometry.source_size == (height, width)
        assert (geometry.scale_y, geometry.scale_x) == pytest.approx((ratio_y, ratio_x))
        assert (geometry.left, geometry.top) == (left, top)
        labels = dataset.load(image_id - 1)[1]
        mapped = normalised_labels(with_boxes(labels, geometry.to_network(labels[:, 1:])), image.shape[1:])
        check_labels(mapped, arrays[f"{mode}/{number}/labels_0_cls_cxcywh"], image.shape)


def check_labels(found: np.ndarray, expected: np.ndarray, shape: tuple[int, ...]) -> None:
    pixels = np.array([1, shape[2], shape[1], shape[2], shape[1]])
    np.testing.assert_allclose(found * pixels, expected[:, 1:] * pixels, atol=1e-3)


def test_square(reference) -> None:
    for mode in ("square", "shrink"):
        case = reference[1][mode]
        side, shrink = case["img_size"], case["options"]["hyp"].get("shrink_size", 0)
        batches = eval_batches(reference[2], image_size=(side, side), batch_size=case["batch_size"], shrink=shrink)
        check_batches(reference, mode, batches)


def test_fixed_shape(reference) -> None:
    case = reference[1]["specific_shape"]
    size = (case["options"]["height"], case["options"]["width"])
    check_batches(
        reference, "specific_shape", eval_batches(reference[2], image_size=size, batch_size=case["batch_size"])
    )


@pytest.mark.parametrize("mode", ["rect_pad0", "rect_pad_half"])
def test_rectangular(reference, mode) -> None:
    arrays, meta, dataset, names = reference
    case = meta[mode]
    size = (case["img_size"], case["img_size"])
    plan = rectangular_plan(
        [arrays[f"source/{name}/image_bgr"].shape[:2] for name in names],
        image_size=size,
        batch_size=case["batch_size"],
        stride=case["options"]["stride"],
        pad=case["options"]["pad"],
    )
    assert [list(shape) for _, shape in plan] == case["batch_shapes_hw"]
    check_batches(reference, mode, rectangular_batches(dataset, plan, image_size=size))


def test_training_without_mosaic(reference) -> None:
    arrays, meta, dataset, names = reference
    case = meta["train_no_mosaic"]
    strengths, size = case["hyp"], (case["img_size"], case["img_size"])
    for number, item in enumerate(case["items_in_order"]):
        _, *affine, hsv, up_down, left_right = (draw[-1] for draw in item["draws_in_order"])
        image, labels = dataset.load_fitted(names.index(item["source"]), size)
        image, left, top = pad_to(image, size)
        labels = with_boxes(labels, labels[:, 1:] + np.array([left, top] * 2))
        image, labels = warp_affine(image, labels, affine=Affine(*affine), size=size)
        image = scale_hsv(
            image, tuple(1 + draw * strengths[f"hsv_{key}"] for key, draw in zip("hsv", hsv, strict=True))
        )
        if up_down < strengths["flipud"]:
            image, labels = flip_vertical(image, labels)
        if left_right < strengths["fliplr"]:
            image, labels = flip_horizontal(image, labels)
        expected = arrays[f"train_no_mosaic/{number}/image_chw_rgb_uint8"]
        difference = np.abs(chw_rgb(image).astype(int) - expected)
        assert difference.max() <= 2 and (difference > 0).any(axis=0).mean() <= 0.12
        check_labels(
            normalised_labels(labels, size), arrays[f"train_no_mosaic/{number}/labels_0_cls_cxcywh"], expected.shape
        )


def test_settings_of_published_scores_are_sizes_that_exist(golden, reference) -> None:
    _, settings = golden("eval_640_settings.json")
    for name, entry in settings.items():
        side, shrink = entry["img_size"], entry["shrink_size"]
        batch = next(iter(eval_batches(reference[2], image_size=(side, side), batch_size=1, shrink=shrink)))
        assert batch.images.shape == (1, 3, side, side), name
        height, width = batch.geometry[0].source_size
        scale = (side - shrink) / max(height, width)
        assert batch.geometry[0].scale_x == pytest.approx(scale, abs=1 / min(height, width)), name
        assert batch.geometry[0].scale_y == pytest.approx(scale, abs=1 / min(height, width)), name
