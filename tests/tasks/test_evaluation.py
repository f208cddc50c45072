"""What counts as a detection reaches the figures of a split."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.support.dataset_folder import NAMES, make_dataset
from tests.support.pipeline import small_card
from yolov6core.data.dataset import DetectionDataset
from yolov6core.evaluation.evaluator import DetectionLimits
from yolov6core.models.detector import Detector
from yolov6core.tasks.evaluation import SplitEvaluator
from yolov6core.tasks.networks import fresh_network

CARD = small_card(tuple(NAMES))


@pytest.fixture
def network() -> Detector:
    """A network whose scores of all places are about the same."""
    network = fresh_network(CARD)
    for layer in network.head.cls_preds:
        torch.nn.init.normal_(layer.weight, std=0.1)
        torch.nn.init.constant_(layer.bias, -1.0)
    return network.eval()


def counts(folder: Path, network: Detector, **limits: float) -> list[int]:
    """Detections in each image."""
    values = {"score_threshold": 0.01, "iou_threshold": 0.65, "max_detections": 300} | limits
    dataset = DetectionDataset(folder, "val")
    found = SplitEvaluator(dataset, CARD, batch_size=4, limits=DetectionLimits(**values))(network).detections
    assert len(found) == len(dataset) == 6
    return [len(rows) for rows in found.values()]


def test_limits_decide_what_is_found(tmp_path, network):
    folder = make_dataset(tmp_path)
    plain = counts(folder, network)
    assert min(plain) > 10
    assert counts(folder, network, max_detections=1) == [1] * 6
    assert counts(folder, network, score_threshold=0.99) == [0] * 6
    strict = counts(folder, network, iou_threshold=0.1)
    assert all(few < many for few, many in zip(strict, plain, strict=True))


def test_the_network_is_left_in_the_mode_it_was_in(tmp_path, network):
    folder = make_dataset(tmp_path)
    for training in (True, False):
        network.train(training)
        counts(folder, network)
        assert network.training is training
