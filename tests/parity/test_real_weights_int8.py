"""What quantization leaves of published weights: depthwise layers, hard-swish, channels of very different size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.support.golden import SHARED
from yolov6core.data.dataset import DetectionDataset
from yolov6core.evaluation.evaluator import evaluate
from yolov6core.models.blocks import deploy_
from yolov6core.models.detector import build_detector
from yolov6core.models.head import decode
from yolov6core.models.variants import VARIANTS
from yolov6core.pretrained.official_names import from_official
from yolov6core.quant.calibrate import collect, ranges
from yolov6core.quant.equalize import equalize, input_peaks
from yolov6core.quant.insert import insert_quantizers, set_ranges_
from yolov6core.quant.observers import Method

pytestmark = pytest.mark.slow

WEIGHTS = SHARED / "weights" / "yolov6lite_l_coco.safetensors"
SPEC = VARIANTS["yolov6_lite_l"]
SIZE = (320, 320)


def test_int8_keeps_the_accuracy_of_a_depthwise_network(coco128: DetectionDataset) -> None:
    if not WEIGHTS.is_file():
        pytest.skip(f"{WEIGHTS} is absent; set YOLOV6_SHARED to the folder that holds weights/")
    network = deploy_(build_detector(SPEC, num_classes=80).eval()).requires_grad_(False)
    network.load_state_dict(from_official(load_file(WEIGHTS)))

    pixels = torch.cat([batch.images for batch in coco128.eval_batches(image_size=SIZE, batch_size=16)])
    half = np.sort(np.random.default_rng(0).permutation(len(pixels))[: len(pixels) // 2])
    batches = [part.float() / 255 for part in pixels[torch.from_numpy(half)].split(16)]
    even = equalize(network, input_peaks(network, batches), cross_layer=False)
    for ours, reference in zip(even(batches[0]), network(batches[0]), strict=True):
        assert torch.equal(ours, reference)
    gm = insert_quantizers(even.to(memory_format=torch.channels_last))
    set_ranges_(gm, ranges(collect(gm, batches), Method("percentile", 99.99)))

    def predict(images: Tensor) -> tuple[Tensor, Tensor]:
        return decode(*gm(images.contiguous(memory_format=torch.channels_last)), image_size=SIZE, strides=SPEC.strides)

    result = evaluate(predict, coco128, image_size=SIZE, batch_size=16)
    assert 100 * result.stats["map50_95"] > 36.5, "float: 37.57; without equalization no method reaches 33"
