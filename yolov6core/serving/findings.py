"""Detections of many pictures as JSON and CSV files."""

from __future__ import annotations

import csv
import io
import json
import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yolov6core.base.inputs import harmless_cell
from yolov6core.data.frames import Frame
from yolov6core.serving.engine_detector import EngineDetector, StepTimes
from yolov6core.serving.results_folder import ResultsFolder

COLUMNS = ("file", "frame", "class", "name", "score", "x1", "y1", "x2", "y2")


@dataclass
class Findings:
    """Detections of the pictures so far, and pictures that could not be read."""

    images: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)

    def add(self, frame: Frame, found: NDArray[np.float32], times: StepTimes, detector: EngineDetector) -> None:
        """Count one picture with its detections [N, 6], see `nms`."""
        assert frame.image is not None, "a picture without pixels is skipped"
        height, width = frame.image.shape[:2]
        detections = [
            {
                "class": int(row[5]),
                "name": detector.name(int(row[5])),
                "score": round(float(row[4]), 4),
                "box": [round(float(value), 2) for value in row[:4]],
            }
            for row in found
        ]
        milliseconds = {step: round(value, 3) for step, value in asdict(times).items()}
        row = {"file": frame.name, "frame": frame.number, "width": width, "height": height, "ms": milliseconds}
        self.images.append(row | {"detections": detections})

    @property
    def objects(self) -> int:
        """Detections in all pictures."""
        return sum(len(image["detections"]) for image in self.images)

    def median_times(self) -> dict[str, float]:
        """Median milliseconds of each step over the pictures."""
        return {step: statistics.median(image["ms"][step] for image in self.images) for step in self.images[0]["ms"]}

    def csv(self) -> str:
        """One line a detection."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for image in self.images:
            for found in image["detections"]:
                file, name = harmless_cell(image["file"]), harmless_cell(found["name"])
                writer.writerow((file, image["frame"], found["class"], name, found["score"], *found["box"]))
        return text.getvalue()

    def write(self, results: ResultsFolder, detector: EngineDetector) -> None:
        """Write `detections.json` and `detections.csv`. Raises UserError if the disk is full."""
        document = {
            "engine": json.loads(detector.engine.info.to_json()),
            "names": list(detector.names),
            "score_threshold": detector.score_threshold,
            "iou_threshold": detector.iou_threshold,
            "images": self.images,
            "skipped": self.skipped,
        }
        results.finish(document, self.csv())
