"""A small run with hostile names, as files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.support.dataset_folder import make_dataset
from yolov6core.base.atomic import write_json
from yolov6core.base.tables import write_rows
from yolov6core.report.run_files import RunFolders

HOSTILE = "</style><script>alert('$x_1$')</script>"
NAMES = (HOSTILE, "nan", "1")
KINDS = ("float", "naive", "ptq", "qat")
METHODS = ("mse", "max")


def _eval(folder: Path) -> None:
    table = [
        {"kind": kind, "runtime": "openvino", "precision": "f32", "map50_95": 0.4 - 0.01 * place, "map50": 0.7}
        | {"latency_ms": 4.0 - 0.5 * place, "latency_p90_ms": 5.0, "end_to_end_ms": 6.0, "fps": 300.0, "size_mb": 10.0}
        | {"int8_convs": 0 if kind == "float" else 5, "convs": 6, "speedup": 1.0 + place, "wrong_convs": 0}
        | {"map_error": 0.011, "drop_error": 0.002, "agreement": 0.97, "drop": 0.01 * place}
        for place, kind in enumerate(KINDS)
    ]
    write_rows(folder / "table.csv", table)
    classes = [{"kind": kind, "class": name, "map50_95": 0.5, "map50": 0.7} for kind in KINDS for name in NAMES]
    write_rows(folder / "per_class.csv", classes)
    write_rows(
        folder / "rounds.csv", [{"kind": k, "round": r, "latency_ms": 3.0, "fps": 9.0} for k in KINDS for r in (0, 1)]
    )
    for kind in KINDS:
        write_rows(folder / "curves" / f"pr_{kind}.csv", [{"recall": x, "precision": 1 - x} for x in (0.0, 0.5, 1.0)])
        write_rows(folder / "curves" / f"f1_{kind}.csv", [{"confidence": x, "f1": 1 - x} for x in (0.0, 0.5, 1.0)])
    box = {"image": 2, "class_index": 0, "left": 2, "top": 2, "right": 20, "bottom": 20}
    found = [
        box | {"kind": "float", "score": 0.9},
        box | {"kind": "ptq", "score": 0.4},
        box | {"kind": "naive", "score": 0.9},
    ]
    write_rows(folder / "detections.csv", found)
    runtimes = [{"name": "tensorrt", "version": "", "problem": "no GPU", "runs": False}]
    write_json(folder / "environment.json", {"python": "3.11", "cpu": HOSTILE, "gpus": [], "runtimes": runtimes})


def _calibration(folder: Path) -> None:
    select = {"float": {"map50_95": 0.4, "map50": 0.6}} | {
        name: {"map50_95": 0.4, "agreement": 0.9} for name in METHODS
    }
    health = {"never_seen": [], "dead_channels": {HOSTILE: [1]}}
    write_json(folder / "methods.json", {"chosen": "mse", "images": 4, "select": select, "health": health})
    worse = {f"t{number}": 20.0 + number for number in range(8)} | {HOSTILE: 10.0}
    ranges = [
        {"group": name, "method": method, "amin": 0.0, "amax": 0.5 + place, "clipped": 0.01, "sqnr_db": ratio}
        for name, ratio in worse.items()
        for place, method in enumerate(METHODS)
    ]
    write_rows(folder / "ranges.csv", ranges)
    counts = {f"{name}.counts": np.arange(300, 0, -1) for name in worse if name != HOSTILE}
    widths = {f"{name}.width_low_high": np.array([0.005, 0.0, 1.5]) for name in worse if name != HOSTILE}
    np.savez(folder / "histograms.npz", **counts, **widths)


@pytest.fixture
def run_folders(tmp_path: Path) -> RunFolders:
    """See `write_run`."""
    return write_run(tmp_path)


def write_run(tmp_path: Path) -> RunFolders:
    """Write the folders of a run of four kinds; one is of a name that the report does not know."""
    dataset = make_dataset(tmp_path, splits=("calib", "val"))
    (dataset / "dataset.yaml").write_text(f"names: {json.dumps(NAMES)}\n", encoding="utf-8")
    write_rows(
        dataset / "statistics.csv",
        [
            {"split": "val", "class": name, "images": 1, "boxes": 2, "small": 1, "medium": 1}
            | {"large": 0, "median_width": 3.0, "median_height": 4.0}
            for name in NAMES
        ],
    )
    write_json(dataset / "report.json", {"kinds": {"broken_link": {"count": 3, "meaning": HOSTILE}}})
    folder = tmp_path / "artifacts"
    others = ("scales", "train", "ptq", "sensitivity", "qat", "onnx", "engines", "eval")
    folders = RunFolders(dataset=dataset, **{name: folder / name for name in others})
    _eval(folders.eval)
    folders.ptq.mkdir(parents=True)
    _calibration(folders.ptq)
    for place in (folders.scales, folders.train, folders.qat):
        rows = [{"epoch": e, "lr": 0.1, "class": 1.0 / e, "total": 2.0 / e, "map50_95": 0.1 * e} for e in (1, 2, 3)]
        write_rows(place / "epochs.csv", rows)
    health = [
        {"block": f"b{number}", "branch": "dense", "mean": 1.0, "min": 0.5, "max": 1.5, "moved": 0.1}
        for number in (0, 1)
    ]
    write_rows(folders.scales / "health.csv", health)
    layers = [{"layer": HOSTILE, "sensitivity": 0.8, "float": 1}, {"layer": "b", "sensitivity": 0.2, "float": 0}]
    write_rows(folders.sensitivity / "ranking.csv", layers)
    trials = [{"float_layers": [], "score": 0.4, "gain": 0.0, "noise": 0.0}]
    trials.append({"float_layers": [HOSTILE], "score": 0.41, "gain": 0.01, "noise": 0.001})
    write_json(
        folders.sensitivity / "keep_float.json", {"float_layers": [HOSTILE], "trials": trials, "float_score": 0.4}
    )
    check = {
        "dialect": "trt",
        "quantized_convs": 5,
        "convs": 6,
        "relative_l2": 1e-5,
        "allowed_l2": 1e-3,
        "size_mb": 3.0,
    }
    write_json(folders.onnx / "check.json", {"ptq.trt.onnx": check})
    for kind in KINDS:
        engine = {"runtime": "openvino", "version": "1", "device": "CPU", "dialect": "openvino", "precision": "f32"}
        write_json(
            folders.engines / kind / "engine.json", engine | {"input_shape": [1, 3, 64, 64], "settings": {"threads": 1}}
        )
    return folders
