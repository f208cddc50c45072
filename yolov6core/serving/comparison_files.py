"""Files that compare engines for people: tables, curves and pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from yolov6core.base.tables import write_rows
from yolov6core.data.dataset import DetectionDataset
from yolov6core.engines.runtime import EngineInfo
from yolov6core.evaluation.curves import CONFIDENCES, confusion_pairs, curves_of
from yolov6core.evaluation.evaluator import EvalResult
from yolov6core.evaluation.plots import (
    comparison,
    confidence_rows,
    mean_confidence_rows,
    mean_precision_rows,
    precision_recall_rows,
    save_jpeg,
)
from yolov6core.evaluation.tradeoff import tradeoff_picture
from yolov6core.serving.engine_evaluation import Times, spread

DIGITS = 5
MIN_KEPT_SCORE = 0.2
"""Weaker detections are not written: they are most, and pictures show those of 0.3 and more."""


def write_tables(
    folder: Path, rows: dict[str, dict[str, Any]], infos: dict[str, EngineInfo], results: dict[str, EvalResult]
) -> None:
    """`table.csv` (one row a kind of model) and `per_class.csv`."""
    base = rows.get("float", {}).get("map50_95", float("nan"))
    table = [
        {
            "kind": name,
            "runtime": infos[name].runtime,
            "precision": infos[name].precision,
            "cpu_sums": infos[name].cpu_sums,
        }
        | row
        | {"drop": base - row["map50_95"], "convs": infos[name].convs}
        for name, row in rows.items()
    ]
    classes = [
        {"kind": name, "class": label} | figures
        for name, result in results.items()
        for label, figures in result.per_class.items()
    ]
    _csv(folder / "table.csv", table)
    _csv(folder / "per_class.csv", classes)


def write_curves(folder: Path, dataset: DetectionDataset, results: dict[str, EvalResult]) -> None:
    """Curves of each class in `pr.csv` and `f1.csv`, what was taken for what in `confusion.csv`; in `curves/` the means
    over the classes and the confusion, one file a kind of model, as DVC's plots need them."""
    truth, names = dataset.ground_truth(), list(dataset.names)
    labels = [*names, "background"]
    recall, f1, counts = [], [], []
    (folder / "curves").mkdir()
    for kind, result in results.items():
        own = {"kind": kind}
        curves = curves_of(result.detections, truth)
        recall += [own | row for row in precision_recall_rows(result.coco, names)]
        f1 += [own | row for row in confidence_rows(curves, names)]
        score = float(CONFIDENCES[curves.best()])
        pairs = confusion_pairs(result.detections, truth, min_score=score).tolist()
        named = [{"actual": labels[actual], "predicted": labels[predicted]} for actual, predicted in pairs]
        counts += [own | {"confidence": score} | row for row in _counted(named)]
        _csv(folder / "curves" / f"pr_{kind}.csv", mean_precision_rows(result.coco))
        _csv(folder / "curves" / f"f1_{kind}.csv", mean_confidence_rows(curves))
        _csv(folder / "curves" / f"confusion_{kind}.csv", named, columns=["actual", "predicted"])
    for name, rows in (("pr", recall), ("f1", f1), ("confusion", counts)):
        _csv(folder / f"{name}.csv", rows)


def write_summary(folder: Path, rows: dict[str, dict[str, Any]], infos: dict[str, EngineInfo]) -> None:
    """`summary.png`: mAP against latency."""
    info = next(iter(infos.values()))
    height, width = info.input_shape[2:]
    points = {name: (row["latency_ms"], row["map50_95"], row["map_error"]) for name, row in rows.items()}
    title = f"{info.runtime} {info.version} on {info.device}, {height} x {width}"
    tradeoff_picture(points, folder / "summary.png", title=title)


def write_samples(folder: Path, dataset: DetectionDataset, results: dict[str, EvalResult], count: int) -> None:
    """Ground truth, float and INT8 side by side, for images spread over the val split."""
    folder.mkdir()
    shown = [name for name in ("float", "ptq", "qat") if name in results]
    for index in spread(len(dataset), count):
        image, labels = dataset.load(index)
        found = {name: results[name].detections[dataset.image_ids[index]] for name in shown}
        picture = comparison(image, labels, found, dataset.names, width=320 * (1 + len(shown)))
        save_jpeg(picture, folder / f"{dataset.paths[index].stem}.jpg")


def write_detections(path: Path, results: dict[str, EvalResult]) -> None:
    """Every detection of at least `MIN_KEPT_SCORE`, in pixels of its image; `image` counts from 1, as in `val.txt`."""
    rows = [
        {"kind": kind, "image": image, "class_index": int(label), "score": score}
        | {"left": left, "top": top, "right": right, "bottom": bottom}
        for kind, result in results.items()
        for image, found in result.detections.items()
        for left, top, right, bottom, score, label in found[found[:, 4] >= MIN_KEPT_SCORE].tolist()
    ]
    columns = ("kind", "image", "class_index", "score", "left", "top", "right", "bottom")
    write_rows(path, rows, columns=columns, digits=3)


def write_rounds(path: Path, times: Times) -> None:
    """The median of each round, to see how far they spread."""
    rows = [
        {"kind": name, "round": number, "latency_ms": latency, "fps": 1000 * times.images[name] / stream}
        for name in times.latency
        for number, (latency, stream) in enumerate(
            zip(times.latency[name].rounds_ms, times.stream[name].rounds_ms, strict=True)
        )
    ]
    write_rows(path, rows, digits=4)


def _counted(pairs: list[dict[str, str]]) -> list[dict[str, Any]]:
    counts = Counter((pair["actual"], pair["predicted"]) for pair in pairs)
    return [{"actual": actual, "predicted": predicted, "count": n} for (actual, predicted), n in sorted(counts.items())]


def _csv(path: Path, rows: list[dict[str, Any]], columns: Sequence[str] | None = None) -> None:
    write_rows(path, rows, columns=columns, digits=DIGITS)
