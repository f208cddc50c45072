"""A torch module behind the interface of engines, so that one evaluator compares it with every engine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from yolov6core.engines.runtime import BuildSettings, EngineInfo, feed
from yolov6core.exchange.interface import Interface

NAME = "torch"


class TorchEngine:
    """A module that maps images [B, 3, H, W] to (boxes, scores), on its own device."""

    def __init__(
        self,
        module: nn.Module,
        image_size: tuple[int, int],
        *,
        names: Sequence[str] = (),
        shrink: int = 0,
        simulated_int8: int = 0,
        max_batch: int = BuildSettings.max_batch,
    ) -> None:
        """Args:
        module: on its device.
        image_size: (height, width) of the input.
        names: of the classes.
        shrink: pixels of the grey frame around the images, see `Interface`.
        simulated_int8: convolutions that round as in INT8, and compute in float.
        max_batch: largest batch that is asked for.
        """
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
            settings=BuildSettings(threads=torch.get_num_threads(), max_batch=max_batch),
            convs=convs,
            wanted_int8=simulated_int8,
            int8_convs=-1 if simulated_int8 else 0,
            names=tuple(names),
            interface=Interface(shrink=shrink),
        )

    def infer(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `runtime.Engine`."""
        with torch.inference_mode():
            boxes, scores = self._module(torch.from_numpy(feed(images, self.info)).to(self.info.device))
        return boxes.cpu().numpy(), scores.cpu().numpy()

    def stream(self, images: np.ndarray, count: int) -> None:
        """See `runtime.Engine`."""
        for _ in range(count):
            self.infer(images)
