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
    """Distances l, t, r, b [..., A, 4] from points [A, 2] to corners [..., A, 4]; one unit throughout (FCOS, 1904.01355)."""
    left_top, right_bottom = distances.chunk(2, dim=-1)
    return torch.cat((points - left_top, points + right_bottom), dim=-1)
