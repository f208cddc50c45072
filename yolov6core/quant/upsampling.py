"""Transposed convolutions as 1 x 1 convolutions, the form in which integer kernels run them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PixelUpsampling(nn.Module):
    """Every pixel becomes a square of them: a 1 x 1 convolution makes their channels, a pixel shuffle lays them out.

    [B, C, H, W] to [B, O, r * H, r * W]. Computes what a transposed convolution does whose kernel is as large as its
    stride r (1609.05158, section 3.2), with a weight scale for each place in the square.
    """

    def __init__(self, conv: nn.Conv2d, factor: int) -> None:
        super().__init__()
        self.conv, self.shuffle = conv, nn.PixelShuffle(factor)

    @classmethod
    @torch.no_grad()
    def from_transposed(cls, layer: nn.ConvTranspose2d) -> PixelUpsampling:
        """The same function with copied weights; `layer` must be one that `is_pixelwise`."""
        factor = layer.stride[0]
        bias = layer.bias is not None
        conv = nn.utils.skip_init(  # no random numbers taken
            nn.Conv2d,
            layer.in_channels,
            layer.out_channels * factor**2,
            1,
            bias=bias,
            device=layer.weight.device,
            dtype=layer.weight.dtype,
        )
        conv.weight.copy_(layer.weight.permute(1, 2, 3, 0).reshape_as(conv.weight))
        if bias:
            conv.bias.copy_(layer.bias.repeat_interleave(factor**2))
        return cls(conv, factor).train(layer.training)

    def forward(self, x: Tensor) -> Tensor:
        return self.shuffle(self.conv(x))


def is_pixelwise(module: nn.Module) -> bool:
    """Whether a module is a transposed convolution whose outputs each depend on one input pixel, square by square."""
    return (
        isinstance(module, nn.ConvTranspose2d)
        and module.kernel_size == module.stride == (module.stride[0],) * 2
        and module.groups == 1
        and module.dilation == (1, 1)
        and module.padding == module.output_padding == (0, 0)
    )


def split_upsampling_(root: nn.Module) -> None:
    """Put a `PixelUpsampling` in place of every transposed convolution that allows it, in place."""
    for name, module in list(root.named_modules()):
        if is_pixelwise(module):
            root.set_submodule(name, PixelUpsampling.from_transposed(module))
