"""Both assigners against recorded assignments."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from yolov6core.assigners.atss import AtssAssigner
from yolov6core.assigners.tal import TaskAlignedAssigner
from yolov6core.assigners.types import Assignment


def _inputs(arrays: np.lib.npyio.NpzFile, case: str) -> dict[str, torch.Tensor]:
    """Arrays of one case that are common to both assigners, in our dtypes."""

    def tensor(name: str) -> torch.Tensor:
        return torch.from_numpy(arrays[f"{case}/{name}"])

    return {
        "pred_boxes": tensor("pred_bboxes"),
        "points": tensor("anchor_points"),
        "gt_labels": tensor("gt_labels").squeeze(-1).long(),
        "gt_boxes": tensor("gt_bboxes").float(),
        "gt_mask": tensor("mask_gt").squeeze(-1).bool(),
    }


def _compare(found: Assignment, arrays: np.lib.npyio.NpzFile, case: str, meta: dict) -> None:
    """Exact mask, labels and index, scores within 1e-5; only roughly as many positives where ties decide the record."""
    positive = torch.from_numpy(arrays[f"{case}/fg_mask"]).bool()
    if meta["topk_tie_could_matter"]:
        assert abs(int(found.positive.sum()) - int(positive.sum())) <= 0.1 * int(positive.sum()) + 13, case
        return
    assert torch.equal(found.positive, positive), case
    if not positive.any():
        assert not found.scores.any(), case
        return
    pick = {name: torch.from_numpy(arrays[f"{case}/{name}"])[positive] for name in _TARGETS}
    assert torch.equal(found.labels[positive], pick["target_labels"].long()), case
    assert torch.equal(found.gt_index[positive], pick["target_gt_index"]), case
    torch.testing.assert_close(found.boxes[positive], pick["target_bboxes"].float(), rtol=0, atol=1e-4)
    scores = torch.from_numpy(arrays[f"{case}/target_scores"]).float()
    torch.testing.assert_close(found.scores, scores, rtol=0, atol=1e-5)


_TARGETS = ("target_labels", "target_bboxes", "target_gt_index")


def test_task_aligned_matches_the_record(golden: Callable) -> None:
    arrays, cases = golden("assigner_tal.npz")
    for case, meta in cases.items():
        assigner = TaskAlignedAssigner(meta["topk"], meta["alpha"], meta["beta"])
        scores = torch.from_numpy(arrays[f"{case}/pred_scores"])
        _compare(assigner(scores, **_inputs(arrays, case)), arrays, case, meta)


def test_atss_matches_the_record(golden: Callable) -> None:
    arrays, cases = golden("assigner_atss.npz")
    for case, meta in cases.items():
        assigner = AtssAssigner(meta["topk"], soft_labels=meta["soft_label_from_predictions"])
        inputs = _inputs(arrays, case)
        scores = torch.zeros(*inputs["pred_boxes"].shape[:2], meta["num_classes"])
        strides = torch.from_numpy(arrays[f"{case}/stride_per_anchor"])
        _compare(assigner(scores, **inputs, strides=strides), arrays, case, meta)
