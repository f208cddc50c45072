"""A network's numbers are read back from its tensors alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.support.speed import slow_except
from yolov6core.models.blocks import deploy_
from yolov6core.models.detector import build_detector
from yolov6core.models.variants import VARIANTS
from yolov6core.pretrained.infer_spec import explicit, infer_spec


@pytest.mark.parametrize("name", slow_except(VARIANTS, "yolov6n_v2", "yolov6_lite_s", "test"))
@pytest.mark.parametrize("deployed", [False, True])
def test_every_variant_is_recognised(name: str, deployed: bool) -> None:
    with torch.device("meta"):
        model = build_detector(VARIANTS[name], num_classes=7)
    if deployed:
        deploy_(model.eval())
    tensors = model.state_dict()
    found = infer_spec(tensors)
    assert explicit(found) == explicit(VARIANTS[name])
    with torch.device("meta"):
        again = build_detector(replace(found, block=VARIANTS[name].block), num_classes=7)
    if deployed:
        deploy_(again.eval())
    assert {key: values.shape for key, values in again.state_dict().items()} == {
        key: values.shape for key, values in tensors.items()
    }


def test_other_networks_are_refused() -> None:
    with pytest.raises(ValueError, match="2 tensors are not those of a YOLOv6 network"):
        infer_spec(torch.nn.Conv2d(3, 3, 1).state_dict())
