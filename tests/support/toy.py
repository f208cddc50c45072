"""A small network with the structure that matters to the writers: conv, ReLU, concat, max-pool, SiLU, transposed conv.

It calls torch's fake-quantize operators directly, placed as the dialects place them. In its exact form every scale
is a power of two, every bias a multiple of s_x * s_w, and SiLU and sigmoid are left out: all float sums are then exact,
so that runtimes which round at the same places give the same bits, in whatever order they add.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@torch.no_grad()
def _snap(parameter: nn.Parameter, step: float) -> None:
    """Round to whole multiples of `step`."""
    parameter.copy_((parameter / step).round() * step)


class FakeQuant(nn.Module):
    """One activation quantizer: int8 symmetric for 'trt', uint8 for 'ort', for 'openvino' what fits the sign."""

    def __init__(self, low: float, high: float, dialect: str, *, exact: bool = False) -> None:
        super().__init__()
        if dialect == "trt" or (dialect == "openvino" and low < 0):
            self.scale, self.zero_point, self.grid = max(-low, high) / 127, 0, (-128, 127)
        elif low >= 0:
            self.scale, self.zero_point, self.grid = high / 255, 0, (0, 255)
        else:
            self.scale, self.grid = (high - low) / 255, (0, 255)
            self.zero_point = round(-low / self.scale)
        if exact:
            self.scale = 2.0 ** torch.tensor(self.scale).log2().ceil().item()
            self.zero_point = 128 if self.zero_point else 0

    def forward(self, x: Tensor) -> Tensor:
        return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, *self.grid)


class ToyConv(nn.Module):
    """Convolution with int8 weights per output channel, -64 .. 64 so that no CPU's sums of pairs overflow."""

    def __init__(self, cin: int, cout: int, *, kernel: int = 3, stride: int = 1, exact: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, kernel, stride=stride, padding=kernel // 2)
        gain = torch.exp(0.6 * torch.randn(cout))
        with torch.no_grad():
            self.conv.weight.mul_(gain[:, None, None, None])
        scale = self.conv.weight.detach().abs().amax((1, 2, 3)) / 64
        self.register_buffer("scale", torch.exp2(scale.log2().ceil()) if exact else scale)
        if exact:
            _snap(self.conv.bias, 2.0**-10)

    def forward(self, x: Tensor) -> Tensor:
        zero = torch.zeros(len(self.scale), dtype=torch.int32)
        weight = torch.fake_quantize_per_channel_affine(self.conv.weight, self.scale, zero, 0, -128, 127)
        return F.conv2d(x, weight, self.conv.bias, self.conv.stride, self.conv.padding)


class ToyNet(nn.Module):
    """Images [B, 3, H, W] to (boxes [B, A, 4], scores [B, A, 2]); 6 quantized convolutions, 3 float ones."""

    quantized = 6

    def __init__(self, dialect: str, *, exact: bool = False, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.full, self.exact = dialect == "ort", exact

        def site(low: float, high: float) -> FakeQuant:
            return FakeQuant(low, high, dialect, exact=exact)

        def conv(cin: int, cout: int, **options: int) -> ToyConv:
            return ToyConv(cin, cout, exact=exact, **options)

        self.q_in, self.stem, self.q_stem = site(0, 1), conv(3, 16, stride=2), site(0, 3)
        self.left, self.right, self.q_cat = conv(16, 16), conv(16, 24, kernel=1), site(0, 4)
        self.mix, self.q_mix = conv(80, 32, kernel=1), site(-4, 4)
        self.up = nn.ConvTranspose2d(32, 16, 2, stride=2)
        self.q_up, self.down, self.q_down = site(-3, 3), conv(16, 16), site(0, 3)
        self.last, self.q_last = conv(16, 16), site(0, 3)
        self.boxes, self.scores = nn.Conv2d(16, 4, 1), nn.Conv2d(16, 2, 1)
        if exact:
            for layer in (self.up, self.boxes, self.scores):
                _snap(layer.weight, 2.0**-6)
                _snap(layer.bias, 2.0**-10)

    def edge(self, quantizer: FakeQuant, x: Tensor) -> Tensor:
        """Quantizers that only ONNX Runtime's dialect has."""
        return quantizer(x) if self.full else x

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.q_stem(self.stem(self.q_in(images)).relu())
        left, right = self.left(x).relu(), self.right(x).relu()
        left, right = self.edge(self.q_cat, left), self.edge(self.q_cat, right)
        pooled = self.edge(self.q_cat, F.max_pool2d(left, 3, 1, 1))
        pooled = torch.cat((left, pooled, right, right), 1)
        y = self.edge(self.q_mix, self.mix(self.q_cat(pooled)))
        y = self.up(y.relu() if self.exact else F.silu(y))
        y = self.q_down(self.down(self.q_up(y)).relu())
        y = self.edge(self.q_last, self.last(y).relu())
        boxes = self.boxes(y).flatten(2).transpose(1, 2) * 8
        scores = self.scores(y).flatten(2).transpose(1, 2)
        return boxes, scores if self.exact else scores.sigmoid()
