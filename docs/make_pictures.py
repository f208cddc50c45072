"""The pictures of README and docs, and the page of the run, made from the run that lies in artifacts/.

python docs/make_pictures.py            # writes docs/pictures and docs/report.html
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from yolov6core.data.dataset import DetectionDataset
from yolov6core.evaluation.plots import draw_boxes, save_jpeg, stack_rows
from yolov6core.evaluation.tags import write_title
from yolov6core.serving.engine_detector import EngineDetector
from yolov6core.serving.open_engine import open_folder

ARTIFACTS = Path("artifacts")
EXAMPLES = ("shapes_0113", "shapes_0209", "shapes_0413")
"""Images of the val split that are bright enough to be seen in a page; most of the sample is darker and noisier."""
ROWS = {"float": "float engine", "qat": "INT8 engine (qat)"}
HEIGHT = 300
"""Of each example, in pixels."""
TITLE = 26
SCORE = 0.4
"""Weaker detections are not drawn, as `infer` has it."""
Rows = list[dict[str, str]]


def table(path: str) -> Rows:
    """Rows of a CSV file under artifacts/."""
    with open(ARTIFACTS / path, newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def detections(path: Path, stems: Sequence[str]) -> None:
    """Detections of the float and the INT8 engine, one above the other. No figures: those stand in the table."""
    dataset = DetectionDataset(ARTIFACTS / "dataset", "val")
    places = {image.stem: place for place, image in enumerate(dataset.paths)}
    images = [dataset.load(places[stem])[0] for stem in stems]
    rows = []
    for kind, title in ROWS.items():
        detector = EngineDetector(open_folder(ARTIFACTS / "engines" / kind), dataset.names, score_threshold=SCORE)
        row = np.concatenate([panel(detector, image) for image in images], axis=1)
        space = cv2.copyMakeBorder(row, TITLE, 0, 0, 0, cv2.BORDER_CONSTANT, value=(255, 255, 255))
        rows.append(write_title(np.asarray(space, np.uint8), title, height=TITLE))
    save_jpeg(stack_rows(rows), path)


def panel(detector: EngineDetector, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image, enlarged, with what the engine finds."""
    found, _ = detector(image)
    scale = HEIGHT / image.shape[0]
    large = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    return draw_boxes(
        np.asarray(large, np.uint8), found[:, :4] * scale, found[:, 5], detector.names, scores=found[:, 4]
    )


def curves(path: Path) -> None:
    """Loss and mAP on the select split over the epochs of the three trainings."""
    figure = Figure(figsize=(8, 2.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for folder, name in (("scales", "search-scales"), ("train", "train-repopt"), ("qat", "qat-distill")):
        rows = table(f"{folder}/epochs.csv")
        scored = [row for row in rows if row["map50_95"]]
        left.plot([int(row["epoch"]) for row in rows], [float(row["total"]) for row in rows], label=name)
        right.plot(
            [int(row["epoch"]) for row in scored], [100 * float(row["map50_95"]) for row in scored], "o-", label=name
        )
    left.set(xlabel="epoch", ylabel="loss")
    right.set(xlabel="epoch", ylabel="mAP50:95 on select, %")
    left.legend()
    for axes in (left, right):
        axes.grid(alpha=0.3)
    save(figure, path)


def calibration(path: Path) -> None:
    """The histogram of the tensor on which the methods differ most, with the range that each method chooses."""
    ranges: dict[str, dict[str, float]] = {}
    for row in table("ptq/ranges.csv"):
        ranges.setdefault(row["group"], {})[row["method"]] = float(row["amax"])
    tensor = max(ranges, key=lambda group: max(ranges[group].values()) / max(min(ranges[group].values()), 1e-9))
    chosen = json.loads((ARTIFACTS / "ptq/methods.json").read_text(encoding="utf-8"))["chosen"]
    with np.load(ARTIFACTS / "ptq/histograms.npz") as arrays:
        counts, (width, _, _) = arrays[f"{tensor}.counts"], arrays[f"{tensor}.width_low_high"]
    figure = Figure(figsize=(8, 2.8), layout="constrained")
    axes: Axes = figure.subplots()
    axes.stairs(counts, width * np.arange(len(counts) + 1), fill=True, color="0.75")
    for place, (method, amax) in enumerate(sorted(ranges[tensor].items(), key=lambda item: item[1])):
        label = f"{method}: {amax:.3g}" + (" (kept)" if method == chosen else "")
        axes.axvline(amax, color=f"C{place}", label=label)
    axes.set(yscale="log", xlabel=f"magnitude of values of {tensor}", ylabel="count")
    axes.legend(fontsize=8)
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """PNG without version or date: equal contents, equal bytes."""
    figure.savefig(path, dpi=80, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    parser.add_argument("--page", type=Path, default=Path("docs/report.html"))
    parser.add_argument("--images", nargs="+", default=EXAMPLES, help="names of val images without ending")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    detections(given.out / "detections.jpg", given.images)
    curves(given.out / "curves.png")
    calibration(given.out / "calibration.png")
    shutil.copy(ARTIFACTS / "sensitivity/ranking.png", given.out / "ranking.png")
    shutil.copy(ARTIFACTS / "dataset/statistics.jpg", given.out / "statistics.jpg")
    shutil.copy(ARTIFACTS / "report/index.html", given.page)


if __name__ == "__main__":
    main()
