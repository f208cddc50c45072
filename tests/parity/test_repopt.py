"""Scales, re-initialisation, gradient multipliers and five optimisation steps of the re-parameterised optimiser."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.support.golden import golden_files
from tests.support.official import spec_from_config
from yolov6core.models.detector import build_detector
from yolov6core.pretrained.official_names import rename_official
from yolov6core.training.repopt import (
    BlockScales,
    attach_multipliers,
    gradient_multiplier,
    reinitialized_kernel,
    scales_from_state,
)

FILES = pytest.mark.parametrize("name", golden_files("repopt*.npz"))


def recorded_scales(arrays, meta) -> dict[str, BlockScales]:
    scales = {}
    for index, block in enumerate(meta["block_order_repopt"]):
        part = f"scales/{index:03d}"
        identity = f"{part}/identity"
        scales[ours(block)] = BlockScales(
            dense=torch.from_numpy(arrays[f"{part}/conv3x3"]),
            pointwise=torch.from_numpy(arrays[f"{part}/conv1x1"]),
            identity=torch.from_numpy(arrays[identity]) if identity in arrays.files else None,
        )
    return scales


def ours(module: str) -> str:
    return rename_official(module + ".").removesuffix(".")


def under(arrays, prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): torch.from_numpy(arrays[key]) for key in arrays.files if key.startswith(prefix)}


@FILES
def test_scales_are_found_in_a_searched_network(golden, name):
    arrays, meta = golden(name)
    state = {rename_official(key): value for key, value in under(arrays, "hyper_search_state/").items()}
    found, expected = scales_from_state(state), recorded_scales(arrays, meta)
    assert list(found) == list(expected)
    for block, item in expected.items():
        for kind in ("dense", "pointwise", "identity"):
            given, got = getattr(item, kind), getattr(found[block], kind)
            assert (given is None) == (got is None) and (given is None or torch.equal(given, got)), (block, kind)


@FILES
def test_reinitialised_kernels_and_multipliers(golden, name):
    arrays, meta = golden(name)
    scales = recorded_scales(arrays, meta)
    assert meta["block_order_repopt"]
    for block in meta["block_order_repopt"]:
        key = f"{block}.conv.weight"
        initial, drawn = torch.from_numpy(arrays[f"initial_conv/{key}"]), torch.from_numpy(arrays[f"drawn_1x1/{block}"])
        kernel = reinitialized_kernel(initial, drawn, scales[ours(block)])
        np.testing.assert_allclose(kernel.numpy(), arrays[f"reinit_conv/{key}"], atol=1e-6)
        multiplier = gradient_multiplier(initial.shape, scales[ours(block)])
        np.testing.assert_allclose(multiplier.numpy(), arrays[f"grad_mask/{key}"], atol=1e-6)


@FILES
def test_five_steps_of_stock_sgd_with_hooks(golden, name):
    arrays, meta = golden(name)
    optimizer_meta = meta["optimizer"]
    model = build_detector(spec_from_config(meta["model_config"]), num_classes=meta["num_classes"], block="repopt")
    parameters = dict(model.named_parameters())
    start = under(arrays, "start_other/") | under(arrays, "reinit_conv/")
    with torch.no_grad():
        for key, value in start.items():
            if rename_official(key) in parameters:
                parameters[rename_official(key)].copy_(value)
    attach_multipliers(model, recorded_scales(arrays, meta))
    groups = [
        {"params": [parameters[key] for key in map(rename_official, names) if key in parameters], "weight_decay": decay}
        for names, decay in zip(optimizer_meta["groups"], optimizer_meta["weight_decay_per_group"], strict=True)
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=optimizer_meta["nesterov"])
    for index, step in enumerate(optimizer_meta["schedule"]):
        for group, lr in zip(optimizer.param_groups, step["lr_per_group"], strict=True):
            group["lr"], group["momentum"] = lr, step["momentum"]
        gradients = {rename_official(k): v.float() / 1024 for k, v in under(arrays, f"grads_int8/step{index}/").items()}
        optimizer.zero_grad()
        # A loss whose gradient is the recorded one lets the hooks act as they do in training.
        sum((parameters[key] * value).sum() for key, value in gradients.items() if key in parameters).backward()
        optimizer.step()
    recorded = under(arrays, "after_step5/")
    assert len([key for key in recorded if rename_official(key) in parameters]) > 10
    for key, value in recorded.items():
        if rename_official(key) in parameters:
            np.testing.assert_allclose(
                parameters[rename_official(key)].detach().numpy(), value.numpy(), atol=1e-6, err_msg=key
            )
