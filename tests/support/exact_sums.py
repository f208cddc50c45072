"""Convolutions of every kind through our writers and the CPU's integer kernels, against int64 sums.

    python tests/support/exact_sums.py saturating exact     # weights made for saturating CPUs, and of all 8 bits

Prints one JSON object: the arithmetic of each runtime, and for each kind of weights, case -> largest difference in
integers, for each runtime.
"""

from __future__ import annotations

import json
import math
import random
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from yolov6core.engines.cpu import integer_arithmetic
from yolov6core.export.dialects import write_dialect
from yolov6core.export.onnx_run import open_outputs
from yolov6core.quant.insert import QuantizedModel, describe, insert_quantizers, ready_for_export_, set_ranges_

STEP = 2.0**-6
"""Scale of the images; a power of two, as are all scales, so that every float product and sum is exact."""
SIDE = 9
DIALECT = {"openvino": "openvino", "onnxruntime": "ort"}
"""Runtime -> dialect of its files."""


@dataclass(frozen=True)
class Kind:
    """A kind of convolution: channels in and out, kernel, groups, stride."""

    cin: int
    cout: int
    kernel: int
    groups: int = 1
    stride: int = 1


KINDS = {
    "dense": Kind(32, 32, 3),
    "dense, stride 2": Kind(16, 64, 3, stride=2),
    "1x1": Kind(48, 24, 1),
    "stem": Kind(3, 16, 3, stride=2),
    "odd channels": Kind(17, 16, 3),
    "odd 1x1": Kind(21, 8, 1),
    "few channels": Kind(6, 12, 3),
    "one channel": Kind(1, 8, 3),
    "5x5": Kind(12, 10, 5),
    "grouped": Kind(32, 32, 3, groups=4),
    "grouped, odd channels": Kind(24, 24, 3, groups=8),
    "grouped 1x1": Kind(32, 16, 1, groups=2),
    "depthwise": Kind(20, 20, 3, groups=20),
    "depthwise 5x5": Kind(33, 33, 5, groups=33, stride=2),
    "two for each channel": Kind(8, 16, 3, groups=8),
    "one to one": Kind(1, 1, 6, stride=3),
}


def drawn(count: int) -> dict[str, Kind]:
    """Further kinds, drawn with a fixed seed."""
    rng, kinds = random.Random(0), {}
    for number in range(count):
        groups = rng.choice((1, 1, 2, 3, 5, 8))
        channels, filters = (groups * rng.choice(range(1, most)) for most in (20, 12))
        kinds[f"drawn {number}"] = Kind(channels, filters, rng.choice((1, 2, 3, 4)), groups, rng.choice((1, 2)))
    return kinds


class Probed(nn.Module):
    """The convolution under test and another one behind it that passes its result on."""

    def __init__(self, kind: Kind, weight: Tensor) -> None:
        super().__init__()
        options = {"stride": kind.stride, "padding": kind.kernel // 2, "groups": kind.groups}
        self.conv = nn.Conv2d(kind.cin, kind.cout, kind.kernel, bias=False, **options)
        self.predict = nn.Conv2d(kind.cout, kind.cout, 1, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(weight)
            self.predict.weight.copy_(torch.eye(kind.cout)[:, :, None, None])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        sums = self.predict(self.conv(images)).flatten(2).transpose(1, 2)
        return sums, sums + 1.0


def weights(kind: Kind, generator: torch.Generator) -> Tensor:
    """Whole numbers -127 .. 127 [O, I / groups, k, k]: filters of 127 only, of one sign, and of any numbers."""
    shape = (kind.cout, kind.cin // kind.groups, kind.kernel, kind.kernel)
    values = torch.randint(-127, 128, shape, generator=generator).float()
    values[1::3] = values[1::3].abs() * torch.randn(len(values[1::3]), 1, 1, 1, generator=generator).sign()
    values[0::3] = 127.0
    return values


def images(kind: Kind, content: str, low: int, high: int, generator: torch.Generator) -> Tensor:
    """Whole numbers low .. high [1, C, side, side]."""
    shape = (1, kind.cin, SIDE, SIDE)
    if content == "any":
        return torch.randint(low, high + 1, shape, generator=generator).float()
    return torch.full(shape, float(high if content == "high" else low))


def built(kind: Kind, weight: Tensor, *, dialect: str, signed: bool, cpu: str) -> tuple[QuantizedModel, float]:
    """The quantized network with scales that are powers of two, and the scale of the convolution's result."""
    # ONNX Runtime needs the result rounded, and so a quantized reader, for an integer convolution.
    gm = insert_quantizers(Probed(kind, weight), dialect_name=dialect, cpu=cpu, quantize_predictions=dialect == "ort")
    for conv in (gm.conv, gm.predict):
        conv.freeze_ranges_()
        conv.weight_amax.fill_(127.0)
    groups = {row.name: row.input_group for row in describe(gm)}
    step = STEP * 2.0 ** math.ceil(math.log2(2 * weight[0].numel() * 127))
    low = -127 if dialect == "openvino" else -128
    ends = (low * STEP, 127 * STEP) if signed else (0.0, 255 * STEP)
    set_ranges_(gm, {groups["conv"]: ends, groups["predict"]: (low * step, 127 * step)})
    return ready_for_export_(gm), step


def difference(kind: Kind, runtime: str, *, signed: bool, cpu: str, folder: Path) -> float:
    """Largest difference of the runtime's sums from int64 ones, in units of the integers' product."""
    generator, worst = torch.Generator().manual_seed(0), 0.0
    dialect = DIALECT[runtime]
    low, high = (-128, 127) if signed else (0, 255)
    gm, step = built(kind, weights(kind, generator), dialect=dialect, signed=signed, cpu=cpu)
    path = write_dialect(gm, folder / "model.onnx", dialect=dialect, input_shape=(1, kind.cin, SIDE, SIDE)).path
    run = open_outputs(path, dialect, integers=True)
    integers = gm.conv.effective_weight().detach().to(torch.int64)
    options = {"stride": gm.conv.stride, "padding": gm.conv.padding, "groups": kind.groups}
    for content in ("high", "low", "any"):
        pixels = images(kind, content, low, high, generator)
        wanted = conv2d(pixels.to(torch.int64), integers, **options).flatten(2).transpose(1, 2).numpy() * STEP
        if dialect == "ort":
            wanted = np.clip(np.rint(wanted / step), -128, 127) * step
        found = run((pixels * STEP).numpy())["boxes"]
        worst = max(worst, float(np.abs(found - wanted).max() / STEP))
    return worst


def main() -> None:
    found = {cpu: differences(cpu) for cpu in sys.argv[1:]}
    print(json.dumps({"sums": integer_arithmetic().runtimes, "differences": found}))


def differences(cpu: str) -> dict[str, dict[str, float]]:
    """Case -> runtime -> largest difference, with weights made for this kind of CPU."""
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        for label, kind in (KINDS | drawn(12)).items():
            for signed in (False, True):
                row = rows.setdefault(f"{label}, {'signed' if signed else 'unsigned'}", {})
                for runtime in DIALECT:
                    row[runtime] = difference(kind, runtime, signed=signed, cpu=cpu, folder=Path(name))
    return rows


if __name__ == "__main__":
    main()
