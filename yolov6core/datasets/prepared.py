"""A checked dataset, ready to be written: its figures, its report, and the folder that training and evaluation read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import pandas as pd

from yolov6core.base.atomic import write_json, write_text
from yolov6core.base.errors import logger
from yolov6core.base.inputs import printable
from yolov6core.base.tables import write_rows
from yolov6core.data.label_names import LabelNames
from yolov6core.datasets.annotated import PROBLEM_KINDS, Problem, count_problems
from yolov6core.datasets.digests import write_digests
from yolov6core.datasets.enough import problem_lines
from yolov6core.datasets.images import Images
from yolov6core.datasets.statistics import class_rows, collect_boxes, statistics_picture
from yolov6core.datasets.write import write_dataset
from yolov6core.datasets.yolo_folder import add_yolo_folder

DIGESTS = "digests.txt"
"""Name of the file that changes with the pixels of any image."""

CLASS_ROWS = 30
"""Rows of the logged table of classes."""


def problem_report(problems: Sequence[Problem]) -> dict[str, Any]:
    """Every kind of problem with its number and meaning, and every problem."""
    counts = count_problems(problems)
    return {
        "kinds": {kind: {"count": count, "meaning": PROBLEM_KINDS[kind]} for kind, count in counts.items()},
        "problems": [{"kind": p.kind, "where": p.where, "detail": p.detail} for p in problems],
    }


def log_problems(problems: Sequence[Problem]) -> None:
    """Log every kind of problem with the first files concerned."""
    for line in problem_lines(problems, PROBLEM_KINDS):
        logger.warning("%s", line)


@dataclass(frozen=True)
class PreparedDataset:
    """The checked dataset in memory, everything sorted by path.

    Attributes:
        root: folder of the dataset, as the user gave it.
        splits: `train`, `select` and `val`.
        calib: images of `train` to calibrate on.
        boxes: split -> class -> boxes.
    """

    root: str
    splits: dict[str, Images]
    calib: Images
    boxes: dict[str, Counter[str]]
    names: list[str]
    problems: list[Problem]

    def figures(self) -> dict[str, int]:
        """Counts of every split and of every kind of problem."""
        figures = {f"{split}_images": len(images) for split, images in self.splits.items()}
        figures["calib_images"] = len(self.calib)
        figures |= {f"{split}_boxes": boxes.total() for split, boxes in self.boxes.items()}
        figures["classes"] = len(self.names)
        figures["problems"] = len(self.problems)
        return figures | {f"problem_{kind}": count for kind, count in count_problems(self.problems).items()}

    def totals(self) -> dict[str, int]:
        """Content of the metrics file: few keys, because `dvc metrics show` makes a column of each."""
        return {
            "images": sum(map(len, self.splits.values())),
            "boxes": sum(boxes.total() for boxes in self.boxes.values()),
            "classes": len(self.names),
            "problems": len(self.problems),
        }

    def log_summary(self) -> None:
        """Log the splits, the classes and every kind of problem with the first files concerned."""
        for split, images in self.splits.items():
            logger.info("%-6s %6d images %7d boxes", split, len(images), self.boxes[split].total())
        logger.info("calib  %6d images of train", len(self.calib))
        self._log_classes()
        log_problems(self.problems)

    def _log_classes(self) -> None:
        """Log a table of the boxes of each class; of many classes, those that are rarest in train."""
        train, shown, which = self.boxes["train"], self.names, ""
        if len(shown) > CLASS_ROWS:
            shown = sorted(shown, key=lambda name: train[name])[:CLASS_ROWS]
            which = f", the {CLASS_ROWS} rarest of {len(self.names)} (statistics.csv has all)"
        table = {split: [boxes[name] for name in shown] for split, boxes in self.boxes.items()}
        rows = pd.DataFrame(table, index=[printable(name) for name in shown])
        logger.info("boxes of each class%s\n%s", which, rows.to_string())
        if unseen := [printable(name) for name in self.names if not train[name]]:
            more = f" and {len(unseen) - 10} more" if len(unseen) > 10 else ""
            logger.warning("cannot be learnt, as train has no box of them: %s%s", ", ".join(unseen[:10]), more)

    def write(self, folder: Path, *, shown_as: str, images: Literal["reference", "hardlink", "copy"]) -> None:
        """Write labels, lists, COCO files, `dataset.yaml`, `report.json`, digests of the images and statistics.

        Args:
            folder: empty.
            shown_as: path of the folder once it is in its place.
            images: whether images stay where they are, or a folder for other YOLO tools is made of them.
        """
        named = write_dataset(folder, self.splits, self.names, calib=self.calib)
        write_text(folder / "dataset.yaml", self._yaml(named))
        if images != "reference":
            both = sorted((*self.splits["train"], *self.splits["select"]), key=lambda image: image.path)
            parts = {"train": both, "val": self.splits["val"]}
            add_yolo_folder(folder, parts, self.names, shown_as=shown_as, copy=images == "copy", named=named)
        write_json(folder / "report.json", problem_report(self.problems))
        write_digests(folder / DIGESTS, (image.path for part in self.splits.values() for image in part))
        self._write_statistics(folder)

    def _yaml(self, named: LabelNames) -> str:
        """Class names, root and counts; strings and lists of JSON are YAML, too."""
        root, names = (json.dumps(value, ensure_ascii=False) for value in (self.root, self.names))
        counts = {split: len(images) for split, images in self.splits.items()} | {"calib": len(self.calib)}
        lines = [f"root: {root}", f"nc: {len(self.names)}", f"names: {names}", "images:"]
        lines += [f"  {split}: {count}" for split, count in counts.items()]
        if named.root is not None:
            entry = {"root": named.root, "suffixes": named.suffixes}
            lines.append(f"labels: {json.dumps(entry, ensure_ascii=False)}  # how label files are named")
        return "\n".join([*lines, ""])

    def _write_statistics(self, folder: Path) -> None:
        """`statistics.csv` of every split and class, `statistics.jpg` of all boxes to train on."""
        rows = []
        for split, images in self.splits.items():  # one at a time: in memory, arrays take as much as the images
            boxes = collect_boxes(images, self.names)
            rows += class_rows(split, boxes, self.names)
            if split == "train":
                encoded = cv2.imencode(".jpg", statistics_picture(boxes, self.names))[1]
                (folder / "statistics.jpg").write_bytes(encoded.tobytes())
        write_rows(folder / "statistics.csv", rows)
