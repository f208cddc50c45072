"""Forward passes of the official implementation on recorded weights, inputs and outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.golden import golden_files
from tests.support.official import build_from_meta
from yolov6core.base.boxes import cxcywh_to_xyxy
from yolov6core.models.blocks import deploy_
from yolov6core.models.detector import Detector
from yolov6core.models.head import decode
from yolov6core.pretrained.official_names import from_official

pytestmark = pytest.mark.slow

EXACT = {"rtol": 1e-7, "atol": 1e-6}
"""Of float64 outputs, as the reference's description says."""


def _load(golden: Callable, name: str) -> tuple[Detector, Tensor, dict[str, np.ndarray], dict]:
    """Network with the recorded weights, input, all other arrays and meta data, in float64."""
    arrays, meta = golden(name)
    arrays = {key: arrays[key] for key in arrays.files}
    model = build_from_meta(meta).double().eval()
    model.load_state_dict(from_official(_under(arrays, "state/")))
    return model, torch.from_numpy(arrays["input"]).double(), arrays, meta


def _under(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): torch.from_numpy(arrays[key]) for key in arrays if key.startswith(prefix)}


def _assert_output(raw: tuple[Tensor, Tensor], recorded: np.ndarray, meta: dict, images: Tensor, **bound) -> None:
    """Raw head output against recorded rows of box centre, size, a constant one and scores."""
    boxes, scores = decode(*raw, image_size=tuple(images.shape[-2:]), strides=meta["strides"])
    expected = torch.from_numpy(recorded)
    np.testing.assert_allclose(boxes, cxcywh_to_xyxy(expected[..., :4]), **bound)
    np.testing.assert_allclose(scores, expected[..., 5:], rtol=EXACT["rtol"], atol=EXACT["atol"])


def _assert_maps(found: Iterable[Tensor], arrays: dict[str, np.ndarray], prefix: str, noise: float) -> None:
    """Feature maps, which exist as float32 records of networks that amplify rounding."""
    found = list(found)
    assert len(found) == sum(key.startswith(prefix) for key in arrays)
    for level, values in enumerate(found):
        np.testing.assert_allclose(values, arrays[f"{prefix}{level}"], rtol=2e-4, atol=max(2e-4, noise))


@pytest.mark.parametrize("name", golden_files("forward_*.npz"))
@torch.no_grad()
def test_training_form_equals_the_official_network(golden: Callable, name: str) -> None:
    model, images, arrays, meta = _load(golden, name)
    noise = meta["max_abs_float32_vs_float64_eval"]
    backbone = model.backbone(images)
    neck = model.neck(backbone)
    output = model.training_output(images)
    _assert_maps(backbone, arrays, "train/backbone_", noise)
    _assert_maps(neck, arrays, "train/neck_", noise)
    _assert_maps(output.features, arrays, "train/feat_", noise)

    found = {"cls": output.cls_logits.sigmoid()}
    if isinstance(output.aux, tuple):
        found |= {"cls_ab": output.aux[0].sigmoid(), "reg_ab": output.aux[1], "reg": output.distances}
    elif output.aux is not None:
        found |= {"reg_dist": output.aux, "reg_lrtb": output.distances}
    else:
        found |= {"reg": output.distances}
    assert {f"train64/{key}" for key in found} == {key for key in arrays if key.startswith("train64/")}
    for key, values in found.items():
        np.testing.assert_allclose(values, arrays[f"train64/{key}"], err_msg=key, **EXACT)
    _assert_output(model(images), arrays["eval64/out"], meta, images, **EXACT)


@pytest.mark.parametrize("name", golden_files("forward_*.npz"))
@torch.no_grad()
def test_deployed_form_equals_the_training_form(golden: Callable, name: str) -> None:
    model, images, arrays, meta = _load(golden, name)
    deploy_(model)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    once = model(images)
    _assert_output(once, arrays["eval64/out"], meta, images, rtol=1e-6, atol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(once, deploy_(model)(images), strict=True))

    # Some official blocks keep their batch norm; where none is left, the fused kernels themselves have to agree.
    fused = from_official(_under(arrays, "deploy_state/"))
    norms = {key.rsplit(".", 1)[0].removesuffix(".bn") for key in fused if key.endswith("running_mean")}
    ours = model.state_dict()
    for key, values in fused.items():
        module = key.rsplit(".", 1)[0].removesuffix(".conv")
        if key in ours and module not in norms:
            np.testing.assert_allclose(ours[key], values, rtol=1e-4, atol=1e-5, err_msg=key)


@pytest.mark.parametrize("name", golden_files("forward_*.npz"))
@torch.no_grad()
def test_deployed_form_in_single_precision(golden: Callable, name: str) -> None:
    """As near as rounding lets two orders of additions be: both sides round, and some networks amplify it.

    Fused kernels add in another order than the official deployed form, which keeps the branches or batch norm of some
    blocks. Of boxes ten times the recorded rounding is allowed, as the reference's description says. Scores get the
    same: ten times what single precision makes of the training form, which has no fused kernel, and at least 1e-4.
    """
    model, images, arrays, meta = _load(golden, name)
    exact = torch.from_numpy(arrays["eval64/out"])[..., 5:]
    _, unfused = decode(*model.float()(images.float()), image_size=tuple(images.shape[-2:]), strides=meta["strides"])
    score_noise = 10 * float((unfused - exact).abs().max())
    deployed = deploy_(model.double()).float()
    noise = 10 * max(meta["max_abs_deploy_vs_eval"], meta["max_abs_float32_vs_float64_eval"])
    boxes, scores = decode(*deployed(images.float()), image_size=tuple(images.shape[-2:]), strides=meta["strides"])
    expected = torch.from_numpy(arrays["deploy/out"])
    np.testing.assert_allclose(boxes, cxcywh_to_xyxy(expected[..., :4]), rtol=0, atol=noise)
    np.testing.assert_allclose(scores, expected[..., 5:], rtol=0, atol=max(1e-4, score_noise))
