"""How far an engine is from exact arithmetic on the CPU at hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from yolov6core.engines.registry import open_engine, open_exact
from yolov6core.engines.runtime import infer_any, read_info
from yolov6core.exchange.compare import compare_outputs


def deviation_from_exact(folder: Path, batches: Sequence[np.ndarray]) -> float | None:
    """Relative L2 distance of an engine's outputs from those of exact integer sums.

    Args:
        folder: of the engine.
        batches: images float32 RGB [B, 3, H, W] in 0..1.

    Returns: None where there is nothing to compare: on GPUs, for float engines, and with suppression in the graph,
    which changes length and order of the lists.
    """
    info = read_info(folder)
    if info.device != "CPU" or not info.wanted_int8 or info.interface.nms != "none":
        return None
    engine, exact = open_engine(folder), open_exact(folder)
    if exact is None:
        return None
    found, wanted = ([infer_any(one, batch) for batch in batches] for one in (engine, exact))
    return compare_outputs(found, wanted)["relative_l2"]
