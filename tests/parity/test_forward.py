"""Forward passes of the official implementation on recorded weights, inputs and outputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.parity.conftest import golden_files
from tests.parity.official import build_from_meta, supported
from yolov6core.boxes import cxcywh_to_xyxy
from yolov6core.models.blocks import deploy_
from yolov6core.models.head import decode
from yolov6core.training.official import from_official


@pytest.mark.parametrize("name", golden_files("forward_*.npz"))
def test_forward_equals_the_official_network(golden, name):
    arrays, meta = golden(name)
    if not supported(meta):
        pytest.skip(f"{meta['config_file']} ({meta['training_mode']}) is not built by this version")
    model = build_from_meta(meta).double().eval()
    state = {
        key.removeprefix("state/"): torch.from_numpy(arrays[key]) for key in arrays.files if key.startswith("state/")
    }
    model.load_state_dict(from_official(state))
    images = torch.from_numpy(arrays["input"]).double()

    with torch.no_grad():
        backbone = model.backbone(images)
        neck = model.neck(backbone)
        logits, distances = model.head(neck)
        deployed = deploy_(model)(images)

    for level in range(len(meta["strides"])):
        np.testing.assert_allclose(backbone[level].numpy(), arrays[f"train/backbone_{level}"], rtol=2e-4, atol=2e-4)
        np.testing.assert_allclose(neck[level].numpy(), arrays[f"train/neck_{level}"], rtol=2e-4, atol=2e-4)
    np.testing.assert_allclose(logits.sigmoid().numpy(), arrays["train/cls"], atol=1e-4)
    image_size = tuple(images.shape[-2:])
    expected = torch.from_numpy(arrays["eval64/out"])
    for raw, tolerance in (((logits, distances), 1e-7), (deployed, 1e-6)):
        boxes, scores = decode(*raw, image_size=image_size, strides=meta["strides"])
        np.testing.assert_allclose(boxes.numpy(), cxcywh_to_xyxy(expected[..., :4]).numpy(), rtol=tolerance, atol=1e-5)
        np.testing.assert_allclose(scores.numpy(), expected[..., 5:].numpy(), rtol=1e-7, atol=1e-6)
