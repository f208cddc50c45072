"""Transposed convolutions as 1 x 1 convolutions and pixel shuffles, the form that integer kernels run."""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import Tensor, nn


class PixelUpsampling(nn.Module):
    """Upsampling by a 1 x 1 convolution and a pixel shuffle, [B, C, H, W] to [B, O, r * H, r * W].

    Equals a transposed convolution whose kernel is as large as its stride r (1609.05158, section 3.2), with a weight
    scale for each of the r * r positions.
    """

    def __init__(self, conv: nn.Conv2d, factor: int) -> None:
        super().__init__()
        self.conv, self.shuffle = conv, nn.PixelShuffle(factor)

    @classmethod
    @torch.no_grad()
    def from_transposed(cls, layer: nn.ConvTranspose2d) -> PixelUpsampling:
        """The same function with copied weights, of a `layer` that `is_pixelwise`."""
        factor = layer.stride[0]
        conv = nn.utils.skip_init(  # draws no random numbers
            nn.Conv2d,
            layer.in_channels,
            layer.out_channels * factor**2,
            1,
            bias=layer.bias is not None,
            device=layer.weight.device,
            dtype=layer.weight.dtype,
        )
        assert isinstance(conv, nn.Conv2d), "skip_init returns the class that it is given"
        conv.weight.copy_(layer.weight.permute(1, 2, 3, 0).reshape_as(conv.weight))
        if conv.bias is not None and layer.bias is not None:
            conv.bias.copy_(layer.bias.repeat_interleave(factor**2))
        return cls(conv, factor).train(layer.training)

    def forward(self, x: Tensor) -> Tensor:
        return self.shuffle(self.conv(x))


def is_pixelwise(module: nn.Module) -> TypeGuard[nn.ConvTranspose2d]:
    """Whether a module is a transposed convolution that turns each input pixel into a square of output pixels."""
    return (
        isinstance(module, nn.ConvTranspose2d)
        and module.kernel_size == module.stride == (module.stride[0],) * 2
        and module.groups == 1
        and module.dilation == (1, 1)
        and module.padding == module.output_padding == (0, 0)
    )


def split_upsampling_(root: nn.Module) -> None:
    """Replace every transposed convolution that `is_pixelwise` by a `PixelUpsampling`, in place."""
    for name, module in list(root.named_modules()):
        if is_pixelwise(module):
            root.set_submodule(name, PixelUpsampling.from_transposed(module))
