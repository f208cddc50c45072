"""Fake quantization: float tensors rounded to an integer grid, with a straight-through gradient inside its range.

Values and gradients equal those of torch's own operators bit for bit. On the CPU this code is several times faster,
because torch's operators fill values and mask element by element. On CUDA, and during export, torch's are used.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from yolov6core.base.saturation import WEIGHT_LEVELS, channel_amax, integer_limits, pair_peak
from yolov6core.quant.learned_scale import learned_quantize
from yolov6core.quant.spec import MIN_SCALE, Grid
from yolov6core.quant.weights import fake_quantize_weights, weight_scale


class _RoundToGrid(torch.autograd.Function):
    """Per-tensor fake quantization; see `fake_quantize`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, zero_point: int, limits: tuple[int, int], rectify: bool) -> Tensor:
        ctx.save_for_backward(x)
        below, above = gradient_interval(scale, zero_point, *limits)
        ctx.pass_between = (0.0 if rectify else below, above)
        first, last = (limit - zero_point for limit in limits)
        # In place after the first product, so that there is one temporary tensor instead of four.
        return (x * reciprocal(scale)).round_().clamp_(0 if rectify else first, last).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (x,) = gradients, ctx.saved_tensors
        below, above = ctx.pass_between
        # The gradient of hardtanh is the mask, in one pass over memory.
        return torch.ops.aten.hardtanh_backward(gradient, x, below, above), None, None, None, None


def reciprocal(scale: float) -> float:
    """1 / scale in float32, the factor of torch's operators."""
    return float(np.float32(1) / np.float32(scale))


@lru_cache(maxsize=4096)
def gradient_interval(scale: float, zero_point: int, low: int, high: int) -> tuple[float, float]:
    """Open interval of the float32 values that round to integers low .. high, where the gradient passes.

    Found by search: at the ends, ties to even and the rounding of x * (1 / scale) decide for single float32 values.
    """
    inverse = np.float32(reciprocal(scale))
    down, up = np.float32(-np.inf), np.float32(np.inf)

    def inside(x: np.float32) -> bool:
        return low <= np.rint(x * inverse) + zero_point <= high

    last = np.float32((high - zero_point + 0.5) * scale)
    while not inside(last):
        last = np.nextafter(last, down)
    while inside(np.nextafter(last, up)):
        last = np.nextafter(last, up)
    first = np.float32((low - zero_point - 0.5) * scale)
    while not inside(first):
        first = np.nextafter(first, up)
    while inside(np.nextafter(first, down)):
        first = np.nextafter(first, down)
    return float(np.nextafter(first, down)), float(np.nextafter(last, up))


def fake_quantize(x: Tensor, scale: float, zero_point: int, grid: Grid, *, rectify: bool = False) -> Tensor:
    """Round float32 `x` of any shape to `grid` and back; the gradient is 1 inside the grid's range and 0 outside.

    With `rectify`, values and gradients are those of a ReLU before it.

    Equals `torch.fake_quantize_per_tensor_affine(x, scale, zero_point, grid.low, grid.high)` bit for bit. Other dtypes
    are rounded in float32 and converted back: near 127, float16 has steps of 1/16.
    """
    if x.dtype != torch.float32:
        return fake_quantize(x.float(), scale, zero_point, grid, rectify=rectify).to(x.dtype)
    if x.is_cuda or torch.onnx.is_in_onnx_export():
        x = x.relu() if rectify else x
        return torch.fake_quantize_per_tensor_affine(x, scale, zero_point, grid.low, grid.high)
    return _RoundToGrid.apply(x, scale, zero_point, (grid.low, grid.high), rectify)


class ActivationQuantizer(nn.Module):
    """Fake quantizer of one scale group; the graph calls it wherever it quantizes a tensor of the group.

    Its state is the real range: buffers `amin` and `amax`, float32 scalars, NaN until calibrated. Scale, zero point and
    the `used` grid (see `Grid.of`) follow from them. They are kept as Python values, so that no call reads a tensor
    back; change the buffers through `set_` or `load_state_dict` only.

    `non_negative` calls are for results of a ReLU: their range starts at 0 even if the group's does not, so that the
    ReLU can be absorbed into an unsigned zero point. `rectify` calls do the ReLU themselves (see `rectifiers`).
    """

    amin: Tensor
    amax: Tensor
    step: nn.Parameter | None

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.register_buffer("amin", torch.tensor(float("nan")))
        self.register_buffer("amax", torch.tensor(float("nan")))
        self.register_parameter("step", None)
        self.grid = grid
        self.enabled = True
        self.refresh_()

    @torch.no_grad()
    def set_(self, amin: float, amax: float) -> None:
        """Set the range; raises ValueError if it is not a finite interval."""
        self.grid.of(amin).scale_and_zero_point(amin, amax)
        self.amin.fill_(amin)
        self.amax.fill_(amax)
        self.refresh_()

    def refresh_(self) -> None:
        """Recompute scale and zero point from the buffers and the grid."""
        self.scale: float | None = None
        self.positive_scale: float | None = None
        self.zero_point = 0
        amin, amax = float(self.amin), float(self.amax)
        self.used = self.grid.of(amin)
        if amin == amin and amax == amax:
            self.scale, self.zero_point = self.used.scale_and_zero_point(amin, amax)
            self.positive_scale, _ = self.grid.scale_and_zero_point(0.0, max(amax, 0.0))

    def learn_(self) -> None:
        """Make the scale a parameter that training moves; raises ValueError if the range is not calibrated."""
        scale, _ = self._scales()
        if self.step is None:
            self.step = nn.Parameter(torch.full_like(self.amax, scale))

    def fix_(self) -> None:
        """End learning: the range follows from the learned scale, the zero point stays."""
        if self.step is not None:
            factor = max(self.step.item(), MIN_SCALE) / self._scales()[0]
            self.step = None
            self.set_(float(self.amin) * factor, float(self.amax) * factor)

    def _scales(self) -> tuple[float, float]:
        """Scale of the range and of its part from 0."""
        if self.scale is None or self.positive_scale is None:
            raise ValueError("this tensor's range is not calibrated; call set_ranges_ or load a calibrated state first")
        return self.scale, self.positive_scale

    def forward(self, x: Tensor, non_negative: bool = False, rectify: bool = False) -> Tensor:
        if not self.enabled:
            return x.relu() if rectify else x
        scale, positive_scale = self._scales()
        if self.step is not None:
            x = x.relu() if rectify else x
            step = self.step * (positive_scale / scale) if non_negative else self.step
            zero_point = 0 if non_negative else self.zero_point
            limits = {"low": self.used.low - zero_point, "high": self.used.high - zero_point}
            return learned_quantize(x, step, **limits, sharing=x[0].numel())
        if non_negative:
            return fake_quantize(x, positive_scale, 0, self.used, rectify=rectify)
        return fake_quantize(x, scale, self.zero_point, self.used, rectify=rectify)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.refresh_()

    def extra_repr(self) -> str:
        return f"{self.used.low}..{self.used.high}, scale={self.scale}, zero_point={self.zero_point}"


class QuantConv2d(nn.Conv2d):
    """A convolution whose weights are fake-quantized per output channel; the graph quantizes its input.

    `active` says whether the layer is quantized at all. `enabled` switches quantization off for a moment. `paired` says
    whether the integers must not overflow the sums of pairs (see `saturation`). Ranges follow the weights, whose
    gradient then passes unchanged, until `freeze_ranges_` stores them in the buffer `weight_amax` [O]. Between `learn_`
    and `fix_` the scales are the parameter `weight_step` [O]. `prepare_export_` stores scale and zero point as tensors,
    so that an export finds constants.
    """

    weight_amax: Tensor
    weight_step: nn.Parameter | None
    export_scale: Tensor | None
    export_zero_point: Tensor | None
    active: bool
    enabled: bool
    frozen: bool
    paired: bool

    @classmethod
    def from_float(cls, conv: nn.Conv2d) -> QuantConv2d:
        """The same convolution (shape, stride, padding, dilation, groups, padding mode), sharing its parameters."""
        padding = conv.padding if isinstance(conv.padding, str) else _two(conv.padding)
        quantized = cls(
            conv.in_channels,
            conv.out_channels,
            _two(conv.kernel_size),
            _two(conv.stride),
            padding,
            _two(conv.dilation),
            conv.groups,
            bias=conv.bias is not None,
            padding_mode=cast("Any", conv.padding_mode),  # torch stores its literal as str
            device="meta",  # the weights are replaced at once: no memory, no random numbers drawn
        )
        quantized.weight, quantized.bias = conv.weight, conv.bias
        quantized.register_buffer("weight_amax", conv.weight.new_zeros(conv.out_channels))
        quantized.register_parameter("weight_step", None)
        quantized.register_buffer("export_scale", None, persistent=False)
        quantized.register_buffer("export_zero_point", None, persistent=False)
        quantized.active, quantized.enabled, quantized.frozen, quantized.paired = True, True, False, False
        return quantized.train(conv.training)

    def weight_range(self) -> Tensor:
        """Ranges [O] of the weights, 127 times the scale: frozen, or the channels' peaks."""
        if self.frozen:
            return self.weight_amax
        return pair_peak(self.weight, self.groups) if self.paired else channel_amax(self.weight)

    @property
    def pair_groups(self) -> int | None:
        """See `saturation.integer_limits`."""
        return self.groups if self.paired else None

    @torch.no_grad()
    def freeze_ranges_(self) -> None:
        """Keep the present ranges from now on, however the weights move."""
        self.frozen = False
        self.weight_amax.copy_(self.weight_range())
        self.frozen = True

    def learn_(self) -> None:
        """Make the scales a parameter that training moves."""
        if self.weight_step is None:
            self.weight_step = nn.Parameter(weight_scale(self.weight_range()))

    @torch.no_grad()
    def fix_(self) -> None:
        """End learning: the ranges are frozen at the learned scales."""
        if self.weight_step is not None:
            self.weight_amax.copy_(self.weight_step.clamp_min(MIN_SCALE) * WEIGHT_LEVELS)
            self.weight_step, self.frozen = None, True

    @torch.no_grad()
    def prepare_export_(self) -> None:
        """Make the scale a constant and clamp the weights to the range; the output does not change.

        The exporter supports the grid -128 .. 127 only. For clamped weights it equals -127 .. 127.
        """
        self.export_scale = weight_scale(self.weight_range())
        self.export_zero_point = torch.zeros_like(self.export_scale, dtype=torch.int32)
        # Ranges that follow the weights hold all of them; float layers need no range.
        if self.frozen and self.active:
            limit = integer_limits(self._integers(), self.pair_groups) * self.export_scale.view(-1, 1, 1, 1)
            self.weight.copy_(self.weight.clamp(-limit, limit))

    def _integers(self) -> Tensor:
        """Weights in units of the present scale, rounded."""
        scale = weight_scale(self.weight_range()) if self.weight_step is None else self.weight_step.clamp_min(MIN_SCALE)
        return (self.weight.detach() * scale.detach().reciprocal().view(-1, 1, 1, 1)).round_()

    def effective_weight(self) -> Tensor:
        """Weights [O, I / groups, kh, kw] that the convolution uses now.

        Raises:
            ValueError: during an export, if `prepare_export_` was not called.
        """
        if not (self.active and self.enabled):
            return self.weight
        if torch.onnx.is_in_onnx_export():
            if self.export_scale is None or self.export_zero_point is None:
                raise ValueError("weight scales are not constant yet; call ready_for_export_ before exporting")
            return torch.fake_quantize_per_channel_affine(
                self.weight, self.export_scale, self.export_zero_point, 0, -128, 127
            )
        if self.weight_step is not None:
            limit = integer_limits(self._integers(), self.groups) if self.paired else WEIGHT_LEVELS
            step = self.weight_step.view(-1, 1, 1, 1)
            return learned_quantize(self.weight, step, low=-limit, high=limit, sharing=self.weight[0].numel())
        scale = weight_scale(self.weight_range())
        return fake_quantize_weights(self.weight, scale, clips=self.frozen, pair_groups=self.pair_groups)

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.effective_weight(), self.bias)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, active={self.active}, frozen={self.frozen}, paired={self.paired}"


def _two(size: tuple[int, ...]) -> tuple[int, int]:
    height, width = size
    return height, width
