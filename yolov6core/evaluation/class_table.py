"""The mAP of every class as a table in the log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import pandas as pd

from yolov6core.base.errors import logger
from yolov6core.base.inputs import printable

ROWS = 30
"""Classes that the table shows."""


class PerClass(Protocol):
    """A result with figures of each class, such as `evaluator.EvalResult`."""

    @property
    def per_class(self) -> Mapping[str, Mapping[str, float | None]]: ...


def log_classes(results: Mapping[str, PerClass]) -> None:
    """Log mAP50:95 on val of each class, and mAP50 of up to two results.

    Of many classes, those whose mAP50:95 is lowest in the last result are shown.

    Args:
        results: kind of model -> its figures, all of the same classes.
    """
    last = list(results.values())[-1].per_class
    names = [name for name, figures in last.items() if figures["map50_95"] is not None]
    which = ""
    if len(names) > ROWS:
        which = f", the {ROWS} lowest of {len(names)}"
        names = sorted(names, key=lambda name: last[name]["map50_95"] or 0.0)[:ROWS]
    if not names:
        return
    keys = {"map50_95": "mAP50:95", "map50": "mAP50"} if len(results) <= 2 else {"map50_95": "mAP50:95"}
    columns = {
        f"{kind} {title}": [result.per_class[name][key] for name in names]
        for key, title in keys.items()
        for kind, result in results.items()
    }
    table = pd.DataFrame(columns, index=[printable(name) for name in names])
    logger.info("val, each class%s\n%s", which, table.to_string(float_format="%.4f"))
