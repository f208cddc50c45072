"""Reading the dataset folder."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from yolov6core.data.dataset import DetectionDataset


def test_a_split_in_the_order_of_its_list(make_dataset) -> None:
    dataset = DetectionDataset(make_dataset(count=5), "train")
    assert len(dataset) == 5
    assert dataset.names == ("disc", "square", "cross")
    assert dataset.image_ids == [1, 2, 3, 4, 5]
    assert [path.name for path in dataset.paths] == [f"picture_00{i}.png" for i in range(1, 6)]


def test_labels_are_the_boxes_of_the_ground_truth_in_pixels(make_dataset) -> None:
    dataset = DetectionDataset(make_dataset(count=6), "val")
    truth = dataset.ground_truth()
    assert sum(len(dataset.load(i)[1]) for i in range(6)) == len(truth["annotations"]) > 0
    for index in range(6):
        image, labels = dataset.load(index)
        assert image.dtype == np.uint8 and image.shape[:2] == dataset.source_sizes()[index]
        rows = [row for row in truth["annotations"] if row["image_id"] == index + 1]
        for row, label in zip(rows, labels, strict=True):
            x, y, w, h = row["bbox"]
            np.testing.assert_allclose(label, [row["category_id"] - 1, x, y, x + w, y + h], atol=1e-4)
            assert (image[y : y + h, x : x + w] >= 150).any()


def test_an_empty_label_file_is_an_image_without_objects(make_dataset) -> None:
    _, labels = DetectionDataset(make_dataset(count=4), "train").load(3)
    assert labels.shape == (0, 5) and labels.dtype == np.float32


def test_limit_takes_the_first_images_and_their_ground_truth(make_dataset) -> None:
    folder = make_dataset(count=6)
    dataset = DetectionDataset(folder, "val", limit=2)
    truth = dataset.ground_truth()
    assert len(dataset) == len(truth["images"]) == 2
    assert {row["image_id"] for row in truth["annotations"]} <= {1, 2}
    assert len(truth["annotations"]) < len(DetectionDataset(folder, "val").ground_truth()["annotations"])


@pytest.mark.parametrize("size", [(64, 64), (96, 160), (300, 300)])
def test_fitted_images_touch_the_size_and_carry_their_labels(make_dataset, size) -> None:
    dataset = DetectionDataset(make_dataset(count=6), "train")
    for index in range(6):
        source, labels = dataset.load(index)
        image, fitted = dataset.load_fitted(index, size)
        height, width = image.shape[:2]
        assert height <= size[0] and width <= size[1] and (height == size[0] or width == size[1])
        scale = np.array([width / source.shape[1], height / source.shape[0]] * 2)
        np.testing.assert_allclose(fitted[:, 1:], labels[:, 1:] * scale, atol=1e-3)


def test_large_jpegs_decode_reduced_to_the_same_picture(tmp_path, make_dataset) -> None:
    """Decoding at half size must look like shrinking the whole picture, in shape and in content."""
    folder = make_dataset(count=1, suffix=".jpg")
    path = Path((folder / "train.txt").read_text().strip())
    ramp = np.linspace(0, 255, 640, dtype=np.uint8)[None, :, None].repeat(480, 0).repeat(3, 2)
    cv2.imwrite(str(path), ramp)
    for size, shape in (((160, 160), (120, 160)), ((100, 100), (75, 100)), ((480, 640), (480, 640))):
        image, _ = DetectionDataset(folder, "train").load_fitted(0, size)
        assert image.shape[:2] == shape
        expected = cv2.resize(ramp, (shape[1], shape[0]), interpolation=cv2.INTER_AREA)
        assert np.abs(image.astype(int) - expected).mean() < 2


def test_turned_jpegs_are_turned_upright_whether_reduced_or_not(make_dataset) -> None:
    """EXIF orientation 6: the stored picture is turned by 90 degrees for viewing, and labels belong to that view."""
    folder = make_dataset(count=1, suffix=".jpg")
    path = Path((folder / "train.txt").read_text().strip())
    stored = np.zeros((240, 480, 3), np.uint8)
    stored[:, :120] = 255
    data = cv2.imencode(".jpg", stored)[1].tobytes()
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    path.write_bytes(data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:])
    dataset = DetectionDataset(folder, "train")
    assert dataset.load(0)[0].shape[:2] == (480, 240)
    image, _ = dataset.load_fitted(0, (120, 60))
    assert image.shape[:2] == (120, 60) and image[:28].min() > 240 and image[32:].max() < 15


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "train.txt").unlink(), "train.txt is missing"),
        (lambda folder: (folder / "train.txt").write_text("\n"), "lists no images"),
        (lambda folder: (folder / "dataset.yaml").write_text("names: 3\n"), "`names` must be a list"),
        (lambda folder: (folder / "labels/picture_001.txt").unlink(), "picture_001.txt is missing"),
        (lambda folder: (folder / "labels/picture_001.txt").write_text("0 1 2\n"), "class cx cy w h"),
        (lambda folder: (folder / "labels/picture_001.txt").write_text("0 a 0 0 0\n"), "class cx cy w h"),
        (lambda folder: (folder / "labels/picture_001.txt").write_text("3 .5 .5 .1 .1\n"), "class outside 0..2"),
    ],
)
def test_a_damaged_folder_is_named(make_dataset, damage, message) -> None:
    folder = make_dataset(count=2)
    damage(folder)
    with pytest.raises(ValueError, match=message):
        DetectionDataset(folder, "train")


def test_bad_images_are_named(make_dataset) -> None:
    dataset = DetectionDataset(make_dataset(count=2), "train")
    dataset.paths[0].write_bytes(b"no picture")
    with pytest.raises(ValueError, match="picture_001.png cannot be decoded"):
        dataset.load(0)
    dataset.paths[0].write_bytes(b"")
    with pytest.raises(ValueError, match="cannot be decoded"):
        dataset.load(0)
    dataset.paths[1].unlink()
    with pytest.raises(ValueError, match="picture_002.png cannot be read"):
        dataset.load(1)


def test_a_foreign_ground_truth_is_refused(make_dataset) -> None:
    folder = make_dataset(count=3)
    lines = (folder / "val.txt").read_text().splitlines()
    dataset = DetectionDataset(folder, "val")
    (folder / "val.txt").write_text("\n".join([*lines, lines[0]]))
    with pytest.raises(ValueError, match="image ids"):
        DetectionDataset(folder, "val").ground_truth()
    assert len(dataset.ground_truth()["images"]) == 3
