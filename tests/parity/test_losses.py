"""Every loss against recorded totals, items, positives and gradients.

The record begins after the sigmoid and divides by any sum of soft targets above 0 in the losses that came later, where
ours divides by at least 1; cases say by their arrays which loss they belong to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.support.golden import golden_files
from yolov6core.losses.anchor_aided import AnchorAidedLoss
from yolov6core.losses.detection import DetectionLoss
from yolov6core.losses.distill import class_kl, fade
from yolov6core.losses.self_distillation import SelfDistillationLoss

ITEMS = ("iou", "dfl", "class", "cwd")  # order of the recorded items; the plain losses have no cwd
Inputs = dict[str, Tensor]


@dataclass
class Found:
    """Our weighted items and positive anchors; `rounding`: what float32 adds to the recorded class divergence."""

    items: dict[str, Tensor]
    positive: Tensor
    rounding: float | None = None


def _logits(scores: Tensor) -> Tensor:
    return scores.double().logit().float()


def _detection_loss(meta: dict[str, Any], **settings: Any) -> DetectionLoss:
    reg_max = meta["reg_max"] if meta["use_dfl"] else 0
    common = {name: meta[name] for name in ("num_classes", "strides", "iou_type")}
    return DetectionLoss(**common, reg_max=reg_max, **settings)


def _plain(inputs: Inputs, meta: dict[str, Any]) -> Found:
    loss = _detection_loss(meta, warmup_epochs=meta["warmup_epoch"])
    arguments = (_logits(inputs["pred_scores"]), inputs["pred_distri"], inputs["targets"])
    batch = {"image_size": tuple(meta["image_hw"]), "epoch": meta["epoch"]}
    terms = loss(*arguments, **batch)
    assert all(term.dtype == torch.float32 and term.ndim == 0 for term in terms.values())
    items = {name: meta["loss_weight"][name] * term for name, term in terms.items()}
    return Found(items, loss.assign(*arguments, **batch).positive)


def _anchor_aided(inputs: Inputs, meta: dict[str, Any]) -> Found:
    common = {name: meta[name] for name in ("num_classes", "strides", "iou_type", "topk")}
    loss = AnchorAidedLoss(**common, anchors=meta["anchors_per_cell"], divide_above=0)
    arguments = (_logits(inputs["pred_scores_ab"]), inputs["pred_reg_ab_xywh"], inputs["targets"])
    batch = {"image_size": tuple(meta["image_hw"])}
    items = {name: meta["loss_weight"][name] * term for name, term in loss(*arguments, **batch).items()}
    return Found(items, loss.assign(*arguments, **batch).positive)


def _distilled(inputs: Inputs, meta: dict[str, Any]) -> Found:
    direct = [inputs["pred_lrtb"]] if "pred_lrtb" in inputs else []
    # The record with the small models' head never uses the assigner of the first epochs; ours does as it is told.
    detection = _detection_loss(meta, warmup_epochs=0 if direct else meta["warmup_epoch"], divide_above=0)
    loss = SelfDistillationLoss(
        detection, epochs=meta["max_epoch"], temperature=meta["temperature"], published_sums=True
    )
    student = (_logits(inputs["pred_scores"]), *direct, inputs["pred_distri"])
    teacher = (_logits(inputs["teacher_scores"]), inputs["teacher_distri"])
    maps = None
    if meta["distill_feat"]:  # the record knows three levels; of four it leaves out the last
        maps = tuple([inputs[f"{who}_feat_{level}"] for level in range(3)] for who in ("student", "teacher"))
    batch = {"image_size": tuple(meta["image_hw"]), "epoch": meta["epoch"]}
    terms = loss(student, teacher, inputs["targets"], **batch, maps=maps)

    weight, share = meta["loss_weight"], dict(meta["distill_weight"])
    if meta["num_classes"] == 1:
        share["class"] = 0.0  # the record's softmax over one class is always 1
    items = {
        "iou": weight["iou"] * (terms["iou"] + terms.get("direct_iou", 0)),
        "dfl": weight["dfl"] * (terms.get("dfl", 0) + share["dfl"] * terms.get("distill_dfl", 0)),
        "class": weight["class"] * (terms["class"] + share["class"] * terms["distill_class"]),
        "cwd": weight["cwd"] * terms.get("distill_features", 0),
    }
    rounding = _class_rounding(inputs, meta["temperature"]) * fade(meta["epoch"], meta["max_epoch"])
    positive = detection.assign(student[0], student[-1], inputs["targets"], **batch).positive
    return Found(items, positive, weight["class"] * share["class"] * rounding)


@torch.no_grad()
def _class_rounding(inputs: Inputs, temperature: float) -> float:
    """Class divergence from logarithms in float32, as the record has it, less ours: up to 2e-4 of the whole."""
    student, teacher = inputs["pred_scores"], inputs["teacher_scores"]
    log_student, target = (student / temperature).log_softmax(-1), (teacher / temperature).softmax(-1)
    rounded = F.kl_div(log_student, target, reduction="sum") * temperature**2
    return (rounded - class_kl(student, teacher, temperature=temperature)).item()


def _loss_of(inputs: Inputs) -> Callable[[Inputs, dict[str, Any]], Found]:
    if "pred_scores_ab" in inputs:
        return _anchor_aided
    return _distilled if "teacher_scores" in inputs else _plain


def _value_close(found: float, expected: float, rounding: float | None) -> bool:
    """Within 1e-5; with a recorded class divergence within 2e-4, or within 1e-5 of what float32 makes of it."""
    close = pytest.approx(expected, rel=1e-5, abs=1e-7)
    if rounding is None:
        return found == close
    return found == pytest.approx(expected, rel=2e-4, abs=1e-7) or found + rounding == close


@pytest.mark.parametrize("name", golden_files("loss_*.npz"))
def test_losses_match_the_record(golden: Callable, name: str) -> None:
    arrays, cases = golden(name)
    assert cases, f"{name} holds no case"
    for case, meta in cases.items():
        keys = [key for key in arrays.files if key.startswith(f"{case}/")]
        inputs = {key.removeprefix(f"{case}/"): torch.from_numpy(arrays[key]) for key in keys}
        learning = [key.removeprefix("grad_") for key in inputs if key.startswith("grad_")]
        for key in learning:
            inputs[key].requires_grad_()
        found = _loss_of(inputs)(inputs, meta)

        for term, expected in zip(ITEMS, meta["items"], strict=False):
            value = torch.as_tensor(found.items.get(term, 0.0)).item()
            assert _value_close(value, expected, found.rounding if term == "class" else None), (case, term, value)
        total = sum(found.items.values())
        assert _value_close(total.item(), meta["total"], found.rounding), (case, total.item())
        assert torch.equal(found.positive, inputs["fg_mask"]), case

        total.backward()
        for key in learning:
            slope = inputs[key].grad if inputs[key].grad is not None else torch.zeros_like(inputs[key])
            taught = found.rounding is not None and key == "pred_scores"
            noise = 5e-6 * max(1.0, meta["distill_weight"]["class"] / 2) if taught else 1e-6
            torch.testing.assert_close(
                slope, inputs[f"grad_{key}"], rtol=1e-4, atol=noise, msg=lambda text, at=(case, key): f"{at}: {text}"
            )
