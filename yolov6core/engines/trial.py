"""The first run of an engine, on a grey image: what a library objects to is found out when a file is opened."""

from __future__ import annotations

import numpy as np

from yolov6core.base.errors import brief
from yolov6core.engines.layouts import UnknownLayout
from yolov6core.engines.pixels import TakesPixels
from yolov6core.engines.runtime import Engine

GREY = 114


def try_once(engine: Engine) -> None:
    """Run an engine once.

    Raises:
        UnknownLayout: it runs, and its outputs are no boxes and scores.
        ValueError: it does not run, whatever exception its library has for that.
    """
    batch, _, height, width = engine.info.input_shape
    images = np.full((max(batch, 1), 3, height, width), GREY / 255, dtype=np.float32)
    pixels = np.full((max(batch, 1), height, width, 3), GREY, dtype=np.uint8)
    try:
        boxes, scores = engine.infer_pixels(pixels) if isinstance(engine, TakesPixels) else engine.infer(images)
    except UnknownLayout:
        raise
    except Exception as error:  # libraries have no common base class
        raise ValueError(f"{engine.info.runtime} cannot run it ({brief(error)})") from None
    fits = boxes.ndim == 3 and scores.ndim == 3 and boxes.shape[2] == 4 and boxes.shape[:2] == scores.shape[:2]
    if not fits or len(boxes) != len(images) or not scores.shape[2]:
        raise UnknownLayout(
            f"the network gives boxes {list(boxes.shape)} and scores {list(scores.shape)} for {len(images)} images; "
            "[B, A, 4] and [B, A, C] are needed"
        )
    names = len(engine.info.names)
    if names and names != scores.shape[2]:
        raise UnknownLayout(f"it names {names} classes, and its scores have {scores.shape[2]}")
    if not np.isfinite(scores).all():
        raise UnknownLayout("the network gives NaN or infinity as scores of a grey image")
