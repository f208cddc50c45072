"""The whole evaluation with predictors whose score is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from yolov6core.data.dataset import DetectionDataset
from yolov6core.data.transforms import Letterbox
from yolov6core.evaluation.evaluator import evaluate, in_source_pixels

SIZE = (128, 160)


class Oracle:
    """Answers with the ground truth of the images in order, moved by `shift` of each box's width."""

    def __init__(self, dataset: DetectionDataset, *, shift: float = 0.0, as_tensor: bool = True) -> None:
        self.truth = iter(
            [
                (geometry, *self._objects(dataset, image_id))
                for batch in dataset.eval_batches(image_size=SIZE, batch_size=1)
                for geometry, image_id in zip(batch.geometry, batch.image_ids, strict=True)
            ]
        )
        self.shift, self.as_tensor, self.classes = shift, as_tensor, len(dataset.names)

    @staticmethod
    def _objects(dataset: DetectionDataset, image_id: int) -> tuple[np.ndarray, np.ndarray]:
        rows = [row for row in dataset.ground_truth()["annotations"] if row["image_id"] == image_id]
        boxes = np.array([row["bbox"] for row in rows], dtype=float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return boxes, np.array([row["category_id"] - 1 for row in rows], dtype=int)

    def __call__(self, images: torch.Tensor):
        assert images.dtype == torch.float32 and images.min() >= 0 and images.max() <= 1
        assert tuple(images.shape[1:]) == (3, *SIZE)
        boxes, scores = (
            np.zeros((len(images), 20, 4), np.float32),
            np.zeros((len(images), 20, self.classes), np.float32),
        )
        for position in range(len(images)):
            geometry, truth, labels = next(self.truth)
            moved = truth + np.array([1, 0, 1, 0]) * self.shift * (truth[:, 2:3] - truth[:, :1])
            boxes[position, : len(truth)] = geometry.to_network(moved)
            scores[position, np.arange(len(truth)), labels] = 0.9
        return (torch.from_numpy(boxes), torch.from_numpy(scores)) if self.as_tensor else (boxes, scores)


@pytest.mark.parametrize("as_tensor", [True, False])
def test_a_perfect_predictor_scores_one(make_dataset, as_tensor) -> None:
    dataset = DetectionDataset(make_dataset(count=6), "val")
    result = evaluate(Oracle(dataset, as_tensor=as_tensor), dataset, image_size=SIZE, batch_size=4, iou_threshold=0.99)
    assert result.stats["map50_95"] == pytest.approx(1.0)
    assert result.stats["map50"] == pytest.approx(1.0)
    assert set(result.detections) == {1, 2, 3, 4, 5, 6}
    assert all(found.shape[1] == 6 and found.dtype == np.float32 for found in result.detections.values())
    assert set(result.per_class) == {"disc", "square", "cross"}
    assert set(result.seconds) == {"load", "predict", "nms", "coco"}


def test_shifted_boxes_score_the_share_of_thresholds_they_pass(make_dataset) -> None:
    """Boxes moved by s of their width overlap with IoU (1 - s) / (1 + s): 0.24 gives 0.613, above 0.5, 0.55 and 0.6."""
    folder = make_dataset(count=1)
    truth = {
        "images": [{"id": 1, "file_name": "p", "height": 96, "width": 128}],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(("disc", "square", "cross"))],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 2, "bbox": [26, 34, 26, 28], "area": 728, "iscrowd": 0}
        ],
    }
    (folder / "annotations" / "instances_val.json").write_text(json.dumps(truth))
    dataset = DetectionDataset(folder, "val")
    result = evaluate(Oracle(dataset, shift=0.24), dataset, image_size=SIZE, batch_size=1)
    assert result.stats["map50_95"] == pytest.approx(0.3)
    assert result.stats["map50"] == pytest.approx(1.0)
    assert result.stats["map75"] == pytest.approx(0.0)
    assert result.per_class["disc"] == {"map50_95": None, "map50": None}


def test_no_detections_score_zero(make_dataset) -> None:
    dataset = DetectionDataset(make_dataset(count=2), "val")
    nothing = evaluate(
        lambda images: (torch.zeros(len(images), 5, 4), torch.zeros(len(images), 5, 3)),
        dataset,
        image_size=SIZE,
        batch_size=2,
    )
    assert nothing.stats["map50_95"] == 0.0
    assert [found.shape for found in nothing.detections.values()] == [(0, 6), (0, 6)]


def test_wrong_predictions_are_refused(make_dataset) -> None:
    dataset = DetectionDataset(make_dataset(count=1), "val")
    with pytest.raises(ValueError, match="has 7 classes"):
        evaluate(lambda x: (torch.zeros(1, 5, 4), torch.zeros(1, 5, 7)), dataset, image_size=SIZE, batch_size=1)
    with pytest.raises(ValueError, match=r"boxes \[B, A, 4\]"):
        evaluate(lambda x: (torch.zeros(1, 5, 4), torch.zeros(1, 6, 3)), dataset, image_size=SIZE, batch_size=1)


def test_a_limited_data_set_is_measured_on_its_images_only(make_dataset) -> None:
    dataset = DetectionDataset(make_dataset(count=6), "val", limit=2)
    result = evaluate(Oracle(dataset), dataset, image_size=SIZE, batch_size=4, iou_threshold=0.99)
    assert list(result.detections) == [1, 2]
    assert result.stats["map50_95"] == pytest.approx(1.0)


def test_detections_come_back_clipped_to_the_source() -> None:
    geometry = Letterbox(scale_x=0.5, scale_y=0.5, left=10, top=0, source_size=(200, 100))
    found = in_source_pixels(np.array([[0, 5, 30, 300, 0.5, 2]], dtype=np.float32), geometry)
    np.testing.assert_allclose(found, [[0, 10, 40, 200, 0.5, 2]])
