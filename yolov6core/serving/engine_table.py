"""One table over engines of any kind, as INT8 detectors are published: accuracy, and speed at batch 1 and 32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from yolov6core.base.errors import UserError, logger
from yolov6core.base.inputs import harmless_cell
from yolov6core.engines.complaints import is_wrong_here
from yolov6core.engines.latency import Latency, measure
from yolov6core.engines.runtime import Engine, EngineInfo
from yolov6core.evaluation.evaluator import EvalResult
from yolov6core.serving.open_engine import class_count

BATCHES = (1, 32)
"""Batches whose speed published tables give."""
TIMED_IMAGES = 64
"""Images of one engine in a round at the larger batch are about so many: every call runs all images of its batch."""


def refuse_other_classes(engines: Mapping[str, Engine], names: Sequence[str]) -> None:
    """Refuse engines whose classes are not those of a dataset, before any is evaluated.

    Names alone may differ, since files of other toolkits often hold none that count; a warning says so.

    Args:
        names: of the dataset's classes.

    Raises:
        UserError: another number of classes.
    """
    for name, engine in engines.items():
        found = class_count(engine)
        if found not in (0, len(names)):
            raise UserError(
                f"{name} has {found} classes, the dataset {len(names)}: evaluate it on the dataset that it was trained "
                "for"
            )
        if engine.info.names and list(engine.info.names) != list(names):
            logger.warning(
                "%s: its classes are called %s, those of the dataset %s; they are compared by number",
                name,
                ", ".join(engine.info.names[:8]),
                ", ".join(names[:8]),
            )


def batch_times(engines: Mapping[str, Engine], *, rounds: int, repeats: int) -> dict[str, dict[int, Latency]]:
    """Times of calls with each of BATCHES, all engines in turns; batches that an engine does not take are left out.

    Args:
        rounds: in which all engines take turns.
        repeats: calls of each engine in a round at batch 1; fewer at larger ones.
    """
    times: dict[str, dict[int, Latency]] = {name: {} for name in engines}
    rng = np.random.default_rng(0)
    for batch in BATCHES:
        calls = {}
        for name, engine in engines.items():
            own, *rest = engine.info.input_shape
            if own == batch or (own == -1 and batch <= engine.info.settings.max_batch):
                # Values do not change the time of a convolution; a seeded picture of noise keeps runs alike.
                images = rng.random((batch, *rest), dtype=np.float32)
                calls[name] = lambda engine=engine, images=images: engine.infer(images)
        most = repeats if batch == 1 else max(1, min(repeats, TIMED_IMAGES // batch))
        for name, latency in measure(calls, rounds=rounds, repeats=most, warmup=2).items():
            times[name][batch] = latency
    return times


def table_rows(
    engines: Mapping[str, Engine], results: Mapping[str, EvalResult], times: Mapping[str, Mapping[int, Latency]]
) -> list[dict[str, Any]]:
    """A row for each engine: figures of COCO in 0..1, milliseconds a call at batch 1, images a second at each batch."""
    rows = []
    for name, engine in engines.items():
        info, stats, own = engine.info, results[name].stats, times[name]
        row: dict[str, Any] = {
            "model": name,
            "runtime": info.runtime,
            "precision": info.precision,
            "int8_convs": _int8(info),
            "map50_95": round(stats["map50_95"], 4),
            "map50": round(stats["map50"], 4),
        }
        if 1 in own:
            row["latency_ms"] = float(f"{own[1].median_ms:.3g}")
        row |= {f"fps_{batch}": float(f"{1000 * batch / latency.median_ms:.3g}") for batch, latency in own.items()}
        if is_wrong_here(info):
            row["wrong_convs"] = info.overflowing_convs
        rows.append(row)
    return rows


def _int8(info: EngineInfo) -> str:
    """INT8 convolutions of all; `simulated` where torch only rounds as INT8 does, `?` where a runtime does not tell."""
    if info.int8_convs >= 0:
        return f"{info.int8_convs}/{info.convs}"
    return f"{info.wanted_int8}/{info.convs} {'simulated' if info.runtime == 'torch' else '?'}"


def csv_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as CSV, without texts that a spreadsheet would take for formulas."""
    return pd.DataFrame([{key: harmless_cell(value) for key, value in row.items()} for row in rows]).to_csv(index=False)


def told_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as aligned text; what an engine has not is left empty."""
    return pd.DataFrame(rows).to_string(index=False, na_rep="", justify="left")
