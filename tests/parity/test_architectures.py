"""Every official configuration, built here: the same tensors, parameters and arithmetic."""

from __future__ import annotations

import gzip
import json

import pytest
import torch

from tests.support.golden import GOLDEN
from tests.support.official import build_from_meta
from yolov6core.models.blocks import deploy_
from yolov6core.models.cost import convolution_macs, cost_of
from yolov6core.models.detector import build_detector
from yolov6core.models.stage_blocks import ShortcutScale
from yolov6core.models.variants import VARIANTS
from yolov6core.pretrained.official_names import from_official

pytestmark = pytest.mark.slow

PROJECTION = 17 + 17
"""Constants of the distance distribution that the official head counts as parameters, used or not."""


def _entries() -> dict[str, dict]:
    path = GOLDEN / "architecture.json.gz"
    return json.loads(gzip.decompress(path.read_bytes())) if path.is_file() else {}


def _summaries() -> dict[str, dict]:
    path = GOLDEN / "architecture_summary.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


ENTRIES = _entries()
SUMMARIES = _summaries()
OFFICIAL_NAME = {"yolov6n_v2": "yolov6n_opt", "yolov6t_v2": "yolov6_tiny_opt", "yolov6s_v2": "yolov6s_opt"}


def _of_entry(name: str) -> tuple[torch.nn.Module, dict]:
    if not ENTRIES:
        pytest.skip(f"{GOLDEN}/architecture.json.gz is absent; set YOLOV6_SHARED to the folder that holds golden/")
    entry = ENTRIES[name]
    with torch.device("meta"):
        return build_from_meta(entry | {"build_options": entry["options"]}), entry


@pytest.mark.parametrize("name", sorted(ENTRIES) or ["absent"])
def test_training_form_has_the_official_tensors(name: str) -> None:
    model, entry = _of_entry(name)
    official = from_official({key: tuple(shape) for key, shape, _ in entry["state_dict_training_form"]})
    assert {key: tuple(values.shape) for key, values in model.state_dict().items()} == official
    parameters = sum(parameter.numel() for parameter in model.parameters())
    constants = 0 if entry["options"].get("lite") else PROJECTION
    assert parameters + constants == entry["training_form"]["parameters"]


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "test"])
def test_cost_of_each_variant(name: str) -> None:
    if not SUMMARIES:
        pytest.skip(f"{GOLDEN}/architecture_summary.json is absent")
    official = SUMMARIES.get(OFFICIAL_NAME.get(name, name))
    if official is None:
        pytest.skip(f"this set of references does not hold {name}")
    spec = VARIANTS[name]
    published = {key: official[key] for key in ("iou_type", "reg_max", "strides")}
    assert {"iou_type": spec.iou_type, "reg_max": spec.reg_max, "strides": list(spec.strides)} == published
    with torch.device("meta"):
        model = build_detector(spec, num_classes=official["num_classes"])
    height, width = official["eval_input"][-2:]
    cost = cost_of(model, image_size=(height, width))
    constants = PROJECTION if spec.stage != "lite" else 0
    assert cost.parameters == official["params_training"] - constants

    # The official graph holds the expectation over distance bins as a convolution with one output.
    anchors = official["eval_output_shape"][1]
    projection = 2 * 17 * 4 * anchors / 1e9 if spec.reg_max else 0
    found = cost.gflops + projection
    assert found == pytest.approx(official["conv_gflops_exact_at_eval_input_deployed"], abs=1e-9)

    deployed = deploy_(model.eval())
    if official["batchnorms_left_deployed"] == 0:  # ours has none, the official one keeps them in some families
        shortcuts = official["params_deployed"] - constants - cost.deployed_parameters
        assert shortcuts == _shortcuts(name)  # of factor one: left out of our deployed form
        # The figure that the official tool prints is of 640 pixels, and counts every weight of a transposed
        # convolution at every output pixel, of which it reaches a quarter.
        everything = convolution_macs(deployed, image_size=(640, 640))
        transposed = convolution_macs(deployed, image_size=(640, 640), kinds=(torch.nn.ConvTranspose2d,))
        anchors = sum((640 // stride) ** 2 for stride in spec.strides)
        projection = 2 * 17 * 4 * anchors / 1e9 if spec.reg_max else 0
        printed = 2 * (everything + 3 * transposed) / 1e9 + projection
        assert printed == pytest.approx(official["gflops_640_official_deployed"], abs=5e-6)


def _shortcuts(name: str) -> int:
    with torch.device("meta"):
        model = build_detector(VARIANTS[name], num_classes=1)
    return sum(isinstance(module, ShortcutScale) for module in model.modules())
