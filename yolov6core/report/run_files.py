"""What the stages have written, read for the report; files that a run did not make are empty."""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = list[dict[str, Any]]
TEXT = ("kind", "runtime", "class", "actual", "predicted", "split", "layer", "group", "method", "block", "branch")
"""Columns that are text, whatever a name looks like: a class may be called 1 or nan."""
TRAININGS = ("search", "float", "qat")


@dataclass(frozen=True)
class RunFolders:
    """Folders of one run."""

    dataset: Path
    scales: Path
    train: Path
    ptq: Path
    sensitivity: Path
    qat: Path
    onnx: Path
    engines: Path
    eval: Path


def read_rows(path: Path, *, text: tuple[str, ...] = TEXT) -> Rows:
    """Rows of a table; empty cells are None, cells of columns that are numbers throughout are numbers.

    Args:
        text: columns that stay text.

    Returns: none for a file that is not there, or that holds nothing.
    """
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        table = csv.DictReader(file)
        rows, names = list(table), table.fieldnames or []
    columns = {name: _values([row[name] for row in rows], as_text=name in text) for name in names}
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


def _values(cells: list[str], *, as_text: bool) -> list[Any]:
    if not as_text:
        with contextlib.suppress(ValueError):
            return [_number(cell) if cell else None for cell in cells]
    return [cell or None for cell in cells]


def _number(cell: str) -> int | float:
    try:
        return int(cell)
    except ValueError:
        return float(cell)


def read_json(path: Path) -> dict[str, Any]:
    """An object; a file that is not there is an empty one."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


class Run:
    """The files of a run as tables and objects; `kinds` are those of the comparison, in its order."""

    def __init__(self, folders: RunFolders) -> None:
        self.folders = folders
        self.table = read_rows(folders.eval / "table.csv")
        self.kinds = [row["kind"] for row in self.table]
        self.per_class = read_rows(folders.eval / "per_class.csv")
        self.environment = read_json(folders.eval / "environment.json")
        self.engines: dict[str, dict[str, Any]] = {
            kind: read_json(folders.engines / kind / "engine.json") for kind in self.kinds
        }
        self.data_report = read_json(folders.dataset / "report.json")
        self.statistics = read_rows(folders.dataset / "statistics.csv")
        self.methods = read_json(folders.ptq / "methods.json")
        self.ranges = read_rows(folders.ptq / "ranges.csv")
        self.choice = read_json(folders.sensitivity / "keep_float.json")
        self.ranking = read_rows(folders.sensitivity / "ranking.csv")
        self.scales = read_rows(folders.scales / "health.csv")
        self.checks = read_json(folders.onnx / "check.json")

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        """Kind of engine -> its row of the comparison."""
        return {row["kind"]: row for row in self.table}

    def curves(self, name: str) -> dict[str, Rows]:
        """Kind of engine -> rows of `pr` or `f1`."""
        return {kind: read_rows(self.folders.eval / "curves" / f"{name}_{kind}.csv") for kind in self.kinds}

    def rounds(self) -> Rows:
        """Median latency and throughput of each round of the measurement."""
        return read_rows(self.folders.eval / "rounds.csv")

    def epochs(self) -> Mapping[str, Rows]:
        """Training -> its rows, one an epoch; none where weights or scales were given."""
        folders = (self.folders.scales, self.folders.train, self.folders.qat)
        return {
            name: read_rows(folder / "epochs.csv", text=()) for name, folder in zip(TRAININGS, folders, strict=True)
        }

    def histograms(self) -> dict[str, tuple[NDArray[np.int64], float]]:
        """Calibrated tensor -> counts [n] of equal bins of magnitudes from 0 on, and the width of a bin."""
        path = self.folders.ptq / "histograms.npz"
        if not path.is_file():
            return {}
        with np.load(path, allow_pickle=False) as file:
            names = [name.removesuffix(".counts") for name in file.files if name.endswith(".counts")]
            return {name: (file[f"{name}.counts"], float(file[f"{name}.width_low_high"][0])) for name in names}

    def detections(self) -> dict[str, dict[int, NDArray[np.float64]]]:
        """Kind -> image id -> [N, 6] x1, y1, x2, y2, score, class index, in pixels of the image."""
        columns = ("left", "top", "right", "bottom", "score", "class_index")
        path = self.folders.eval / "detections.csv"
        found: dict[str, dict[int, list[list[float]]]] = {kind: {} for kind in self.kinds if path.is_file()}
        for row in (row for row in read_rows(path) if row["kind"] in found):
            found[row["kind"]].setdefault(row["image"], []).append([row[name] for name in columns])
        return {kind: {image: np.array(rows) for image, rows in own.items()} for kind, own in found.items()}
