"""RepPAN: top-down, then bottom-up fusion of three pyramid levels (YOLOv6, 2209.02976, section 2.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from yolov6core.models.blocks import ConvBNAct, repeat_block


class RepPAN(nn.Module):
    """Two fusions on the way to fine resolution, two on the way back; upsampling is a learned 2x2 transpose."""

    def __init__(
        self, *, block: type[nn.Module], inputs: Sequence[int], channels: Sequence[int], repeats: Sequence[int]
    ) -> None:
        """inputs: backbone channels, shallow to deep (3); channels: see ModelSpec.neck_channels (6); repeats (4)."""
        super().__init__()
        shallow, middle, deep = inputs
        down_0, down_1, stride_1, up_1, stride_0, up_0 = channels
        self.reduce = nn.ModuleList((ConvBNAct(deep, down_0, kernel=1), ConvBNAct(down_0, down_1, kernel=1)))
        self.upsample = nn.ModuleList(nn.ConvTranspose2d(c, c, 2, stride=2) for c in (down_0, down_1))
        self.top_down = nn.ModuleList(
            (
                repeat_block(block, down_0 + middle, down_0, repeats[0]),
                repeat_block(block, down_1 + shallow, down_1, repeats[1]),
            )
        )
        self.downsample = nn.ModuleList((ConvBNAct(down_1, stride_1, stride=2), ConvBNAct(up_1, stride_0, stride=2)))
        self.bottom_up = nn.ModuleList(
            (
                repeat_block(block, stride_1 + down_1, up_1, repeats[2]),
                repeat_block(block, stride_0 + down_0, up_0, repeats[3]),
            )
        )

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Maps of strides 8, 16, 32 to fused maps of the same strides."""
        shallow, middle, deep = maps
        reduced_0 = self.reduce[0](deep)
        merged = self.top_down[0](torch.cat((self.upsample[0](reduced_0), middle), dim=1))
        reduced_1 = self.reduce[1](merged)
        out_8 = self.top_down[1](torch.cat((self.upsample[1](reduced_1), shallow), dim=1))
        out_16 = self.bottom_up[0](torch.cat((self.downsample[0](out_8), reduced_1), dim=1))
        out_32 = self.bottom_up[1](torch.cat((self.downsample[1](out_16), reduced_0), dim=1))
        return out_8, out_16, out_32
