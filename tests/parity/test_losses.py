"""The detection loss against recorded totals, items, positives and gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from yolov6core.losses.detection import DetectionLoss

ITEMS = ("iou", "dfl", "class")  # order of the recorded items


def _leaves(arrays: np.lib.npyio.NpzFile, case: str) -> tuple[Tensor, Tensor, Tensor]:
    """Class logits and distances that ask for gradient, and recorded scores: the record begins after the sigmoid."""
    scores = torch.from_numpy(arrays[f"{case}/pred_scores"])
    logits = scores.double().logit().float().requires_grad_()
    return logits, torch.from_numpy(arrays[f"{case}/pred_distri"]).requires_grad_(), scores


def _gradient_close(found: Tensor, recorded: Tensor, case: str) -> None:
    torch.testing.assert_close(found, recorded, rtol=1e-4, atol=1e-6, msg=lambda text: f"{case}: {text}")


def _run(arrays: np.lib.npyio.NpzFile, case: str, meta: dict) -> None:
    logits, distances, scores = _leaves(arrays, case)
    loss = DetectionLoss(
        num_classes=meta["num_classes"],
        strides=meta["strides"],
        iou_type=meta["iou_type"],
        reg_max=meta["reg_max"] if meta["use_dfl"] else 0,
        warmup_epochs=meta["warmup_epoch"],
    )
    batch = {"image_size": tuple(meta["image_hw"]), "epoch": meta["epoch"]}
    targets = torch.from_numpy(arrays[f"{case}/targets"])
    terms = loss(logits, distances, targets, **batch)
    assert all(term.dtype == torch.float32 and term.ndim == 0 for term in terms.values()), case

    weighted = {name: meta["loss_weight"][name] * term for name, term in terms.items()}
    total = sum(weighted.values())
    assert total.item() == pytest.approx(meta["total"], rel=1e-5), case
    items = [weighted[name].item() if name in weighted else 0.0 for name in ITEMS]
    assert items == pytest.approx(meta["items"], rel=1e-5, abs=1e-7), case

    positive = loss.assign(logits, distances, targets, **batch).positive
    assert torch.equal(positive, torch.from_numpy(arrays[f"{case}/fg_mask"])), case
    total.backward()
    slope = scores * (1 - scores)  # chain rule from scores to logits
    _gradient_close(logits.grad, torch.from_numpy(arrays[f"{case}/grad_pred_scores"]) * slope, case)
    _gradient_close(distances.grad, torch.from_numpy(arrays[f"{case}/grad_pred_distri"]), case)


@pytest.mark.parametrize("name", ["loss_plain_nodfl.npz", "loss_plain_dfl.npz"])
def test_loss_matches_the_record(golden: Callable, name: str) -> None:
    arrays, cases = golden(name)
    for case, meta in cases.items():
        _run(arrays, case, meta)
