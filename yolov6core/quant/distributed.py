"""Quantized models in a training of several processes."""

from __future__ import annotations

import torch
from torch import distributed

from yolov6core.quant.insert import QuantizedModel, convolution_names, fix_ranges_, get_ranges, set_ranges_


@torch.no_grad()
def broadcast_ranges_(gm: QuantizedModel, *, source: int = 0) -> None:
    """Give every process the ranges of process `source`, in place; all processes of the default group must call it.

    Each process calibrates on its own images, or only `source` does. Without this, the processes round to different
    grids, and the gradients that they average belong to different networks. DistributedDataParallel copies buffers as
    well, but behind the back of a Range, which keeps its scale as a Python number: call this before wrapping.

    Args:
        gm: the same network in every process. On other processes than `source` it need not be calibrated. Scales that
            are being learned are fixed first.
        source: rank of the process that is followed; its ranges must be calibrated.

    Raises:
        ValueError: the ranges of `source` are not calibrated (in every process).
    """
    fix_ranges_(gm)
    names = list(gm.ranges)
    device = next(gm.parameters()).device
    own = get_ranges(gm)
    ranges = torch.tensor([own[name] for name in names], dtype=torch.float32, device=device)  # [groups, 2]
    distributed.broadcast(ranges, src=source)
    set_ranges_(gm, {name: (low, high) for name, (low, high) in zip(names, ranges.tolist(), strict=True)})
    convolutions = [gm.get_submodule(name) for name in convolution_names(gm)]
    frozen = torch.tensor([float(conv.frozen) for conv in convolutions], device=device)
    distributed.broadcast(frozen, src=source)
    for conv, value in zip(convolutions, frozen.tolist(), strict=True):
        distributed.broadcast(conv.weight_amax, src=source)
        conv.frozen = bool(value)
