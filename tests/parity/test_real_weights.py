"""A network that somebody else trained, on images that somebody else labelled: published weights, a known accuracy."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.support.golden import SHARED
from yolov6core.base.boxes import cxcywh_to_xyxy
from yolov6core.data.dataset import DetectionDataset
from yolov6core.evaluation.evaluator import evaluate
from yolov6core.models.blocks import deploy_
from yolov6core.models.detector import Detector, build_detector
from yolov6core.models.head import decode
from yolov6core.models.variants import VARIANTS
from yolov6core.pretrained.official_names import from_official

pytestmark = pytest.mark.slow

WEIGHTS = SHARED / "weights" / "yolov6lite_l_coco.safetensors"
SPEC = VARIANTS["yolov6_lite_l"]
SIZE = (320, 320)


@pytest.fixture(scope="module")
def lite() -> Detector:
    if not WEIGHTS.is_file():
        pytest.skip(f"{WEIGHTS} is absent; set YOLOV6_SHARED to the folder that holds weights/")
    model = deploy_(build_detector(SPEC, num_classes=80).eval())
    model.load_state_dict(from_official(load_file(WEIGHTS)))
    return model


@torch.no_grad()
def test_every_map_equals_the_recorded_run(lite: Detector) -> None:
    recorded = np.load(WEIGHTS.with_name("yolov6lite_l_reference.npz"))
    exact = copy.deepcopy(lite).double()  # so that the error is the record's own, whatever the number of threads
    images = torch.from_numpy(recorded["image"]).double()
    backbone = exact.backbone(images)
    neck = exact.neck(backbone)
    for name, maps in (("backbone_c", backbone), ("neck_p", neck)):
        for level, values in enumerate(maps, start=3):
            expected = recorded[f"{name}{level}"]
            np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    boxes, scores = decode(*exact.head(neck), image_size=SIZE, strides=SPEC.strides)
    expected = torch.from_numpy(recorded["decoded"])
    np.testing.assert_allclose(boxes, cxcywh_to_xyxy(expected[..., :4]), atol=2e-3)
    np.testing.assert_allclose(scores, expected[..., 5:], atol=2e-5)


def test_accuracy_on_coco128(lite: Detector, coco128: DetectionDataset) -> None:
    def predict(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return decode(*lite(images), image_size=SIZE, strides=SPEC.strides)

    result = evaluate(predict, coco128, image_size=SIZE, batch_size=16)
    assert len(result.detections) == 128
    assert 100 * result.stats["map50_95"] == pytest.approx(37.57, abs=0.05)
    assert 100 * result.stats["map50"] == pytest.approx(51.88, abs=0.05)
