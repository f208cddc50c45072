"""Shapes, published sizes, decoding and errors of the network."""

from __future__ import annotations

import json

import pytest
import torch

from yolov6core.models.blocks import deploy_
from yolov6core.models.detector import build_detector
from yolov6core.models.head import decode
from yolov6core.models.variants import VARIANTS, ModelSpec, variant


@pytest.mark.parametrize(
    ("name", "parameters"), [("yolov6n_v2", 4_320_460), ("yolov6t_v2", 9_700_404), ("yolov6s_v2", 17_226_908)]
)
def test_deployed_parameters_equal_the_published_model(name, parameters):
    # The official deployed RepOpt networks keep batch norm in their 35 blocks; ours fold it: one vector less each.
    with torch.device("meta"):
        model = build_detector(variant(name), num_classes=80)
    kept = sum(p.numel() for p in model.parameters())
    folded = sum(m.num_features for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))
    blocks = sum(m.bn.num_features for n, m in model.named_modules() if hasattr(m, "bn") and _is_rep_block(n))
    assert kept - folded + blocks == parameters


def _is_rep_block(name: str) -> bool:
    return name == "backbone.stem" or ".stages." in name or "top_down" in name or "bottom_up" in name


@pytest.mark.parametrize("classes", [1, 2, 20])
def test_output_shapes(classes):
    model = deploy_(build_detector(VARIANTS["test"], num_classes=classes)).eval()
    logits, distances = model(torch.rand(2, 3, 64, 96))
    anchors = 8 * 12 + 4 * 6 + 2 * 3
    assert logits.shape == (2, anchors, classes) and distances.shape == (2, anchors, 4)


def test_decode_of_known_distances():
    logits, distances = torch.zeros(1, 4 + 1, 2), torch.ones(1, 4 + 1, 4)
    boxes, scores = decode(logits, distances, image_size=(32, 32), strides=(16, 32))
    assert boxes[0, 0].tolist() == [8 - 16, 8 - 16, 8 + 16, 8 + 16]
    assert boxes[0, 1].tolist() == [24 - 16, 8 - 16, 24 + 16, 8 + 16]  # second anchor lies to the right: row by row
    assert boxes[0, 4].tolist() == [16 - 32, 16 - 32, 16 + 32, 16 + 32]
    assert (scores == 0.5).all()


def test_decode_takes_the_expectation_of_bins():
    bins = torch.full((1, 1, 4, 5), -50.0)
    bins[..., 3] = 50.0
    boxes, _ = decode(torch.zeros(1, 1, 1), bins.flatten(2), image_size=(32, 32), strides=(32,))
    torch.testing.assert_close(boxes[0, 0], torch.tensor([16 - 96.0, 16 - 96, 16 + 96, 16 + 96]))


def test_spec_round_trips_through_json():
    for spec in VARIANTS.values():
        assert ModelSpec.from_meta(json.loads(json.dumps(spec.to_meta()))) == spec


@pytest.mark.parametrize(
    ("call", "part"),
    [
        (lambda: variant("yolov6x9"), "yolov6n"),
        (lambda: build_detector(VARIANTS["test"], num_classes=0), "at least one class"),
        (lambda: build_detector(VARIANTS["test"], num_classes=1, block="rep"), "repopt"),
    ],
)
def test_errors_name_what_is_allowed(call, part):
    with pytest.raises(ValueError, match=part):
        call()
