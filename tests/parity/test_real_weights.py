"""A network that somebody else trained, on images that somebody else labelled: published weights, a known accuracy."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.support.golden import SHARED
from yolov6core.base.boxes import cxcywh_to_xyxy
from yolov6core.data.dataset import DetectionDataset
from yolov6core.engines.runtime import BuildSettings
from yolov6core.evaluation.evaluator import evaluate
from yolov6core.exchange.interface import Interface
from yolov6core.export.dialects import write_traced
from yolov6core.export.onnx_export import to_onnx
from yolov6core.models.blocks import deploy_
from yolov6core.models.decoded import DecodedNetwork
from yolov6core.models.detector import Detector, build_detector
from yolov6core.models.head import decode
from yolov6core.models.variants import VARIANTS
from yolov6core.pretrained.official_names import from_official
from yolov6core.serving.engine_detector import EngineDetector
from yolov6core.serving.open_engine import open_any

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


@pytest.mark.parametrize(
    "runtime, dialect, kind, score, iou",
    [("openvino", "openvino", "topk", 0.25, 0.5), ("onnxruntime", "ort", "onnx", 0.1, 0.65)],
)
def test_suppression_inside_by_best_classes_finds_what_is_found_without(
    lite: Detector,
    coco128: DetectionDataset,
    tmp_path: Path,
    runtime: str,
    dialect: str,
    kind: str,
    score: float,
    iou: float,
) -> None:
    """On published weights of 80 classes, two images at a time; what a box would be in another class is left out."""
    pictures = [coco128.load(index)[0] for index in range(24)]
    module = DecodedNetwork(lite, strides=SPEC.strides, image_size=SIZE)
    traced = to_onnx(module, input_shape=(2, 3, *SIZE))
    found = []
    for form, classes in (("none", "all"), (kind, "all"), (kind, "best")):
        interface = Interface(nms=form, nms_classes=classes, score_threshold=score, iou_threshold=iou)
        path = tmp_path / f"{form}_{classes}.onnx"
        write_traced(traced, path, dialect=dialect, interface=interface)
        engine = open_any(path, runtime, settings=BuildSettings(threads=1))
        found.append(EngineDetector(engine, score_threshold=score, iou_threshold=iou).several(pictures))
    plain, every, best = found
    assert [rows[:, 5].tolist() for rows in every] != [rows[:, 5].tolist() for rows in plain]
    assert sum(map(len, plain)) > 100
    for rows, wanted in zip(best, plain, strict=True):
        np.testing.assert_array_equal(rows[:, 5], wanted[:, 5])
        np.testing.assert_allclose(rows, wanted, rtol=1e-5, atol=1e-3)
