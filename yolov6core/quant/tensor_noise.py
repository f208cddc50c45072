"""Noise that the rounding of each single tensor adds, channel by channel."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from yolov6core.quant.graph_ops import activation_quantizers
from yolov6core.quant.insert import QuantizedModel, quantizers_off, state_of

LIMIT_DB = 100.0
"""Limit of a channel's ratio, so that a channel without noise does not hide the others in the mean."""


@dataclass(frozen=True)
class TensorNoise:
    """Signal-to-noise ratio of one quantized tensor.

    Attributes:
        tensor: node name.
        group: scale group it belongs to.
        sqnr_db: decibels, mean over the channels that are not zero. In a ratio of sums, a large channel would hide the
            loss of a small one.
        worst_channel_db: decibels of the worst channel.
        step: scale of the tensor's grid.
    """

    tensor: str
    group: str
    sqnr_db: float
    worst_channel_db: float
    step: float


class _NoiseMeter(fx.Interpreter):
    """Runs the float network and sums signal and rounding noise per channel of each tensor that gets rounded."""

    def __init__(self, gm: QuantizedModel) -> None:
        super().__init__(gm)
        self.placements = {placement.value: placement for placement in state_of(gm).placements}
        self.quantizers = activation_quantizers(gm)
        self.sums: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self.placements and isinstance(value, Tensor):
            placement = self.placements[n.name]
            quantizer = self.quantizers[placement.group]
            before, quantizer.enabled = quantizer.enabled, True
            try:
                error = quantizer(value, non_negative=placement.non_negative) - value
            finally:
                quantizer.enabled = before
            dims = [dim for dim in range(value.dim()) if dim != 1]
            power = torch.stack([x.double().square().sum(dim=dims) for x in (value, error)])
            self.sums[n.name] = power + self.sums.get(n.name, 0)
        return value


@torch.no_grad()
def tensor_noise(gm: QuantizedModel, batches: Iterable[Tensor]) -> list[TensorNoise]:
    """Noise of every tensor that the present dialect rounds, worst first, measured on values of the float network.

    Args:
        gm: calibrated model.
        batches: images [B, 3, H, W] float32 in 0..1.

    Raises:
        ValueError: no image.
    """
    run, training = _NoiseMeter(gm), gm.training
    gm.eval()
    try:
        with quantizers_off(gm):
            for images in batches:
                run.run(images)
    finally:
        gm.train(training)
    if not run.sums:
        raise ValueError("the noise of tensors needs at least one image; check the calibration list")
    rows = []
    for tensor, (signal, noise) in run.sums.items():
        live = signal > 0
        decibels = (10 * (signal[live] / noise[live]).log10()).clamp(-LIMIT_DB, LIMIT_DB)
        group = run.placements[tensor].group
        mean, worst = (float(decibels.mean()), float(decibels.min())) if len(decibels) else (LIMIT_DB, LIMIT_DB)
        scale = run.quantizers[group].scale
        assert scale is not None, "a quantizer without scale raises in the run above"
        rows.append(TensorNoise(tensor, group, mean, worst, scale))
    return sorted(rows, key=lambda row: (row.sqnr_db, row.tensor))


def noise_table(rows: Iterable[TensorNoise]) -> str:
    """Rows as a table for people: dB, dB of the worst channel, and the step of each tensor."""
    lines = [f"{'tensor':40s} {'dB':>6s} {'worst channel':>13s} {'step':>10s}"]
    lines += [f"{row.tensor:40s} {row.sqnr_db:6.1f} {row.worst_channel_db:13.1f} {row.step:10.3g}" for row in rows]
    return "\n".join(lines)
