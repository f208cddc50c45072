"""A torch module behind the interface of engines, so that one evaluator compares it with every engine."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from yolov6core.engines.runtime import BuildSettings, EngineInfo, feed

NAME = "torch"


@torch.inference_mode()
def run_module(module: nn.Module, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Run a module that maps images [B, 3, H, W] to (boxes, scores) on arrays, on the device of the module."""
    boxes, scores = module(torch.from_numpy(images).to(next(module.parameters()).device))
    return boxes.cpu().numpy(), scores.cpu().numpy()


class TorchEngine:
    """A module that maps images [B, 3, H, W] to (boxes, scores), on its own device."""

    def __init__(self, module: nn.Module, image_size: tuple[int, int]) -> None:
        self._module = module.eval()
        convs = sum(isinstance(part, nn.Conv2d | nn.ConvTranspose2d) for part in module.modules())
        self.info = EngineInfo(
            runtime=NAME,
            version=torch.__version__,
            device=str(next(module.parameters()).device),
            file="",
            dialect="",
            precision="f32",
            input_shape=(-1, 3, *image_size),
            settings=BuildSettings(threads=torch.get_num_threads()),
            convs=convs,
            wanted_int8=0,
            int8_convs=0,
        )

    def infer(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `runtime.Engine`."""
        return run_module(self._module, feed(images, self.info))

    def stream(self, images: np.ndarray, count: int) -> None:
        """See `runtime.Engine`."""
        for _ in range(count):
            self.infer(images)
