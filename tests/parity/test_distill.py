"""Distillation terms against recorded items and gradients; the recorded class KL is float32 and off by up to 1e-4."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from yolov6core.losses.detection import DetectionLoss
from yolov6core.losses.distill import channel_wise_kl, class_kl, distance_kl, fade

BINS = 17
WEIGHT = {"iou": 2.5, "dfl": 0.5, "cwd": 10.0}


def _weighted_terms(tensors: dict[str, Tensor], meta: dict[str, Any]) -> dict[str, Tensor]:
    """Items of one case, weighted, from our functions; `tensors` are the case's inputs."""
    reg_max = BINS - 1 if meta["use_dfl"] else 0
    settings = {key: meta[key] for key in ("num_classes", "strides", "iou_type")}
    loss = DetectionLoss(**settings, reg_max=reg_max, warmup_epochs=meta["warmup_epoch"])
    logits = tensors["pred_scores"].double().logit().float()
    batch = {"image_size": tuple(meta["image_hw"]), "epoch": meta["epoch"]}
    arguments = (logits, tensors["pred_distri"], tensors["targets"])
    terms = loss(*arguments, **batch)
    assigned = loss.assign(*(item.detach() for item in arguments), **batch)

    teacher = fade(meta["epoch"], meta["max_epoch"])
    share = {name: teacher * value for name, value in meta["distill_weight"].items()}
    kl = class_kl(tensors["pred_scores"], tensors["teacher_scores"], temperature=meta["temperature"])
    items = {"iou": WEIGHT["iou"] * terms["iou"], "class": terms["class"] + share["class"] * kl}
    if reg_max:
        positive = assigned.positive
        weight = assigned.scores[positive].sum(dim=-1)
        pair = [tensors[name][positive].unflatten(-1, (4, BINS)) for name in ("pred_distri", "teacher_distri")]
        kl = distance_kl(*pair, weight, temperature=meta["temperature"]) / assigned.scores.sum().clamp(min=1)
        items["dfl"] = WEIGHT["dfl"] * (terms["dfl"] + share["dfl"] * kl)
    if meta["distill_feat"]:
        ours, theirs = ([tensors[f"{who}_feat_{level}"] for level in range(3)] for who in ("student", "teacher"))
        items["cwd"] = WEIGHT["cwd"] * teacher * channel_wise_kl(ours, theirs)
    return items


@pytest.mark.parametrize("name", ["loss_distill.npz", "loss_distill_ns.npz"])
def test_distillation_matches_the_record(golden: Callable, name: str) -> None:
    arrays, cases = golden(name)
    for case, meta in cases.items():
        keys = [key for key in arrays.files if key.startswith(f"{case}/")]
        tensors = {key.removeprefix(f"{case}/"): torch.from_numpy(arrays[key]) for key in keys}
        learning = [key.removeprefix("grad_") for key in tensors if key.startswith("grad_")]
        for key in learning:
            tensors[key].requires_grad_()
        items = _weighted_terms(tensors, meta)
        recorded = dict(zip(("iou", "dfl", "class", "cwd"), meta["items"], strict=True))
        if "pred_lrtb" in tensors:
            recorded.pop("iou")  # there it is the sum over two regression branches
        for term, expected in recorded.items():
            found = items[term].item() if term in items else 0.0
            assert found == pytest.approx(expected, rel=2e-4 if term == "class" else 1e-5, abs=1e-7), (case, term)

        if "pred_lrtb" in tensors:
            continue
        sum(items.values()).backward()
        for key in learning:
            if tensors[key].grad is None:
                assert not tensors[f"grad_{key}"].any(), (case, key)
                continue
            noise = 5e-6 if key == "pred_scores" else 1e-6  # the record's own float32 error in the class KL
            torch.testing.assert_close(tensors[key].grad, tensors[f"grad_{key}"], rtol=1e-4, atol=noise)
