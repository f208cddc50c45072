"""Box losses, pairwise overlaps and the distance codec against recorded values and gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from yolov6core.base.boxes import boxes_to_distances, cxcywh_to_xyxy, distances_to_boxes, pairwise_iou, xyxy_to_cxcywh
from yolov6core.losses.functional import BOX_LOSSES

CONVENTIONS = (("xyxy", "1e-10"), ("xywh", "1e-07"))


def _close_where_finite(found: torch.Tensor, recorded: torch.Tensor, tolerance: float) -> None:
    finite = torch.isfinite(recorded)
    assert finite.any()
    torch.testing.assert_close(found[finite], recorded[finite].to(found.dtype), rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("layout", "eps"), CONVENTIONS)
@pytest.mark.parametrize("name", sorted(BOX_LOSSES))
def test_box_loss_and_gradients_match_the_record(
    golden: Callable, name: str, layout: str, eps: str, dtype: torch.dtype
) -> None:
    arrays, _ = golden("iou_losses.npz")
    pred = torch.from_numpy(arrays[f"pred_{layout}"]).to(dtype).requires_grad_()
    target = torch.from_numpy(arrays[f"target_{layout}"]).to(dtype).requires_grad_()
    corners = (pred, target) if layout == "xyxy" else (cxcywh_to_xyxy(pred), cxcywh_to_xyxy(target))
    loss = BOX_LOSSES[name](*corners, eps=float(eps))
    loss.sum().backward()

    double = dtype == torch.float64
    prefix = f"{name}/{layout}_eps{eps}_{'f64' if double else 'f32'}"
    recorded = {key: torch.from_numpy(arrays[f"{prefix}/{key}"]) for key in ("loss", "grad_pred", "grad_target")}
    _close_where_finite(loss.detach(), recorded["loss"], 1e-9 if double else 1e-5)
    _close_where_finite(pred.grad, recorded["grad_pred"], 1e-9 if double else 1e-4)
    _close_where_finite(target.grad, recorded["grad_target"], 1e-9 if double else 1e-4)


def test_pairwise_overlaps_match_the_record(golden: Callable) -> None:
    arrays, _ = golden("iou_losses.npz")
    pred = torch.from_numpy(arrays["pred_xyxy"])[:30]
    target = torch.from_numpy(arrays["target_xyxy"])[:40]
    variants = {
        "assigner_iou_eps1e-9": {"eps": 1e-9},
        "atss_iou_union_floor1e-6": {"eps": 0.0, "union_floor": 1e-6},
        "eval_box_iou_no_eps": {"eps": 0.0},
    }
    for name, settings in variants.items():
        recorded = torch.from_numpy(arrays[f"pairwise/{name}"])
        torch.testing.assert_close(pairwise_iou(pred, target, **settings), recorded, rtol=0, atol=1e-6)


def test_distance_codec_matches_the_record(golden: Callable) -> None:
    arrays, _ = golden("iou_losses.npz")
    keys = [key for key in arrays.files if key.startswith("codec/")]
    codec = {key.removeprefix("codec/"): torch.from_numpy(arrays[key]) for key in keys}
    decoded = distances_to_boxes(codec["points"], codec["ltrb"])
    torch.testing.assert_close(decoded, codec["decoded_xyxy"])
    torch.testing.assert_close(xyxy_to_cxcywh(decoded), codec["decoded_xywh"])
    for reg_max in (7, 16):
        encoded = boxes_to_distances(codec["points"], codec["boxes_xyxy"], reg_max - 0.01)
        torch.testing.assert_close(encoded, codec[f"encoded_ltrb_regmax{reg_max}"])
