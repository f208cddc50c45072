"""The torch module itself behind the same interface, so that one evaluator compares it with every engine."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from yolov6core.engines.runtime import BuildSettings, EngineInfo, check_images

NAME = "torch"


class TorchEngine:
    """A module that maps images [B, 3, H, W] to (boxes, scores), on the device it lies on."""

    def __init__(self, module: nn.Module, image_size: tuple[int, int]) -> None:
        self._module = module.eval()
        self._device = next(module.parameters()).device
        convs = sum(isinstance(part, nn.Conv2d | nn.ConvTranspose2d) for part in module.modules())
        self.info = EngineInfo(
            runtime=NAME,
            version=torch.__version__,
            device=str(self._device),
            file="",
            dialect="",
            precision="f32",
            input_shape=(-1, 3, *image_size),
            settings=BuildSettings(threads=torch.get_num_threads()),
            convs=convs,
            wanted_int8=0,
            int8_convs=0,
        )

    @torch.inference_mode()
    def infer(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `runtime.Engine`."""
        boxes, scores = self._module(torch.from_numpy(check_images(images, self.info)).to(self._device))
        return boxes.cpu().numpy(), scores.cpu().numpy()
