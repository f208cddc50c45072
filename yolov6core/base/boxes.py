"""Box geometry shared by head, assigners, losses and evaluation.

Letters: B images, A anchors, N and M boxes. Boxes are `xyxy` (left, top, right, bottom) unless a name says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Centre and size [..., 4] to corners [..., 4], same unit and dtype."""
    centre, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat((centre - size / 2, centre + size / 2), dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Corners [..., 4] to centre and size [..., 4], same unit and dtype."""
    top_left, bottom_right = boxes[..., :2], boxes[..., 2:]
    return torch.cat(((top_left + bottom_right) / 2, bottom_right - top_left), dim=-1)


def anchor_points(
    image_size: tuple[int, int],
    strides: Sequence[int],
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Cell centres of all levels, in pixels of the network input.

    Levels come in the order of `strides`; inside a level row by row.

    Returns: points [A, 2] (x, y) and the stride of each anchor [A, 1].
    """
    height, width = image_size
    points, per_anchor = [], []
    for stride in strides:
        ys = torch.arange(height // stride, device=device, dtype=dtype) + 0.5
        xs = torch.arange(width // stride, device=device, dtype=dtype) + 0.5
        grid_y, grid_x = torch.meshgrid(ys, xs, indexing="ij")
        level = torch.stack((grid_x, grid_y), dim=-1).reshape(-1, 2) * stride
        points.append(level)
        per_anchor.append(torch.full((level.shape[0], 1), stride, device=device, dtype=dtype))
    return torch.cat(points), torch.cat(per_anchor)


def distances_to_boxes(points: Tensor, distances: Tensor) -> Tensor:
    """Distances l, t, r, b [..., A, 4] from points [A, 2] to corners [..., A, 4], in one unit (FCOS, 1904.01355)."""
    left_top, right_bottom = distances.chunk(2, dim=-1)
    return torch.cat((points - left_top, points + right_bottom), dim=-1)


def boxes_to_distances(points: Tensor, boxes: Tensor, limit: float | None = None) -> Tensor:
    """Distances l, t, r, b [..., A, 4] from points [A, 2] to the sides of boxes [..., A, 4].

    The inverse of `distances_to_boxes`. With `limit` the distances are clipped to 0 .. limit. Bins (2006.04388)
    need `limit < reg_max`, so that the bin to the right of every target exists.
    """
    left_top, right_bottom = boxes[..., :2], boxes[..., 2:]
    distances = torch.cat((points - left_top, right_bottom - points), dim=-1)
    return distances if limit is None else distances.clamp(0, limit)


def box_iou(a: Tensor, b: Tensor, *, eps: float = 1e-9, union_floor: float = 0.0) -> Tensor:
    """Intersection over union of boxes a [..., 4] and b [..., 4] that broadcast against each other.

    Inverted boxes have area 0. The divisor is `max(union, union_floor) + eps`; with both 0, empty boxes give NaN.

    Returns: [...] in 0 .. 1, dtype of the boxes.
    """
    left_top = torch.maximum(a[..., :2], b[..., :2])
    right_bottom = torch.minimum(a[..., 2:], b[..., 2:])
    overlap = (right_bottom - left_top).clamp_(min=0).prod(dim=-1)
    area_a = (a[..., 2:] - a[..., :2]).clamp_(min=0).prod(dim=-1)
    area_b = (b[..., 2:] - b[..., :2]).clamp_(min=0).prod(dim=-1)
    union = area_a + area_b - overlap
    if union_floor > 0:
        union = union.clamp(min=union_floor)
    return overlap / (union + eps)


def pairwise_iou(a: Tensor, b: Tensor, *, eps: float = 1e-9, union_floor: float = 0.0) -> Tensor:
    """Overlap of every box of a [..., N, 4] with every box of b [..., M, 4]: [..., N, M]; options as of `box_iou`."""
    return box_iou(a[..., :, None, :], b[..., None, :, :], eps=eps, union_floor=union_floor)
