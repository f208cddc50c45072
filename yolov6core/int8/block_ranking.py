"""Sensitivity by block of the network, and the mAP of the INT8 network with one block or layer float at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from yolov6core.base.atomic import write_text
from yolov6core.base.errors import logger
from yolov6core.quant.selection import Score

SHOWN = 10
"""Rows that the log shows."""


def block_of(layer: str) -> str:
    """The block of a layer by its module path: up to the first number, else without its last part.

    `backbone.stages.1.0.conv` is in `backbone.stages.1`, `backbone.pool.fuse.conv` in `backbone.pool`, `model.24.m.0`
    in `model.24`.
    """
    parts = layer.split(".")
    for length, part in enumerate(parts, 1):
        if part.isdigit():
            return ".".join(parts[:length])
    return ".".join(parts[: min(2, max(len(parts) - 1, 1))])


def blocks_of(layers: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Block -> its layers, both in the order given."""
    found: dict[str, tuple[str, ...]] = {}
    for layer in layers:
        found[block_of(layer)] = (*found.get(block_of(layer), ()), layer)
    return found


@dataclass(frozen=True)
class OneFloat:
    """The network with one part float and all others as before.

    Attributes:
        name: block or layer.
        kind: `block` or `layer`.
        layers: that are float.
        score: mAP50:95.
        gain: over the network with none of them float; `noise` is its standard error.
    """

    name: str
    kind: str
    layers: tuple[str, ...]
    score: float
    gain: float
    noise: float


def measure_one_float(
    layers: Sequence[str],
    *,
    verify: Callable[[tuple[str, ...]], Score],
    single_layers: bool,
    state: Path | None = None,
) -> list[OneFloat]:
    """Leave every block float in turn, and every layer if asked for; the highest mAP first.

    The result is logged as `Top0: float neck.fuse.0, mAP 0.4621`, as other tools print it. On few images most gains are
    noise: compare them with their standard errors.

    Args:
        layers: convolutions that are quantized, in order of execution.
        verify: float layers -> score. The jackknife parts must be the same in every call.
        single_layers: measure each layer as well.
        state: file that keeps scores as they come; an interrupted run continues from it.
    """
    parts = [("block", name, own) for name, own in blocks_of(layers).items()]
    if single_layers:
        parts += [("layer", name, (name,)) for name in layers]
    known = json.loads(state.read_text(encoding="utf-8")) if state is not None and state.is_file() else {}

    def score(own: tuple[str, ...]) -> Score:
        key = " ".join(own)
        if key not in known:
            known[key] = asdict(verify(own))
            if state is not None:
                write_text(state, json.dumps(known))
        return Score(known[key]["value"], tuple(known[key]["without"]))

    none = score(())
    rows = []
    for kind, name, own in parts:
        found = score(own)
        rows.append(OneFloat(name, kind, own, found.value, found.value - none.value, found.noise_of_gain(none)))
    rows.sort(key=lambda row: (-row.score, row.kind, row.name))
    for rank, row in enumerate(rows[:SHOWN]):
        logger.info(
            "Top%d: float %s, mAP %.4f (gain %+.4f, standard error %.4f)",
            *(rank, row.name, row.score, row.gain, row.noise),
        )
    return rows


def block_rows(
    shares: Mapping[str, float], costs: Mapping[str, float], float_layers: Iterable[str]
) -> list[dict[str, float | int | str]]:
    """Sensitivity and cost of blocks as the sums of their layers', the most sensitive block first.

    Rounding errors of layers are independent, so that sensitivities add up where they are small.

    Args:
        shares: layer -> share of the sensitivity of all.
        costs: layer -> cost of leaving it float.
        float_layers: chosen ones, which are counted.
    """
    chosen = set(float_layers)
    rows: list[dict[str, float | int | str]] = [
        {
            "block": name,
            "layers": len(own),
            "sensitivity": sum(shares[layer] for layer in own),
            "cost": sum(costs[layer] for layer in own),
            "float": len(chosen.intersection(own)),
        }
        for name, own in blocks_of(shares).items()
    ]
    return sorted(rows, key=lambda row: (-float(row["sensitivity"]), str(row["block"])))
