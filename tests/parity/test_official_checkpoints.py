"""Official checkpoint files as networks of ours: the recorded outputs, from nothing but the files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.golden import GOLDEN, golden_files
from yolov6core.base.boxes import cxcywh_to_xyxy
from yolov6core.models.blocks import deploy_
from yolov6core.models.head import decode
from yolov6core.pretrained.infer_spec import infer_spec
from yolov6core.pretrained.official_file import read_official_checkpoint
from yolov6core.pretrained.official_names import from_official
from yolov6core.pretrained.weights import OFFICIAL_BLOCKS, GivenWeights, block_for, empty_network, load_weights_
from yolov6core.training.repopt import BlockScales, scales_from_state

FILES = pytest.mark.parametrize("name", golden_files("official_*.pt"))


def _given(path: Path, part: str) -> GivenWeights:
    file = read_official_checkpoint(path)
    tensors = {key: values.float() for key, values in from_official(file.parts[part]).items()}
    return GivenWeights(path, tensors, "official", file.names, OFFICIAL_BLOCKS[file.block])


@pytest.mark.slow
@FILES
@torch.no_grad()
def test_outputs_equal_the_record(golden: Callable, name: str) -> None:
    arrays, _ = golden("official_checkpoint_expected.npz")
    path = GOLDEN / name
    images = torch.from_numpy(arrays["input"])
    checked = 0
    for part in read_official_checkpoint(path).parts:
        given = _given(path, part)
        spec = infer_spec(given.tensors)
        network = empty_network(spec, block_for(given, spec.block), given).eval()
        load_weights_(network, given)
        for form, run in (("eval", network), ("deployed", deploy_(network))):
            recorded = arrays[f"{path.stem}/{part}_{form}_output_float32"]
            boxes, scores = decode(*run(images), image_size=tuple(images.shape[-2:]), strides=spec.strides)
            np.testing.assert_allclose(boxes, cxcywh_to_xyxy(torch.from_numpy(recorded[..., :4])), rtol=0, atol=0.02)
            np.testing.assert_allclose(scores, recorded[..., 5:], rtol=0, atol=2e-4)
            checked += 1
    assert checked >= 2


@FILES
def test_scales_equal_the_record(golden: Callable, name: str) -> None:
    arrays, _ = golden("official_checkpoint_expected.npz")
    path = GOLDEN / name
    recorded = {key for key in arrays.files if key.startswith(f"{path.stem}/scales/")}
    scales = list(scales_from_state(_given(path, "model").tensors).values())
    kinds = {"conv3x3": "dense", "conv1x1": "pointwise", "identity": "identity"}
    seen = {
        f"{path.stem}/scales/{index:03d}/{official}": getattr(block, ours)
        for index, block in enumerate(scales)
        for official, ours in kinds.items()
        if getattr(block, ours) is not None
    }
    assert all(isinstance(block, BlockScales) for block in scales)
    assert seen.keys() == recorded
    for key, values in seen.items():
        np.testing.assert_array_equal(values, arrays[key].astype(np.float32))
