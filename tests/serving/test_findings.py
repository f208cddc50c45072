"""Detections of many pictures, counted and written."""

from __future__ import annotations

import csv
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest

from yolov6core.data.frames import Frame
from yolov6core.serving.engine_detector import StepTimes
from yolov6core.serving.findings import COLUMNS, Findings
from yolov6core.serving.results_folder import ResultsFolder

DETECTOR = SimpleNamespace(
    name=lambda label: ("cat", "dog")[label],
    names=("cat", "dog"),
    score_threshold=0.4,
    iou_threshold=0.45,
    engine=SimpleNamespace(info=SimpleNamespace(to_json=lambda: '{"runtime": "none"}')),
)
"""What findings ask of a detector."""


def frame(name: str, number: int = 0) -> Frame:
    return Frame(name, number, np.zeros((30, 40, 3), np.uint8))


def filled() -> Findings:
    """Two pictures, one of them empty."""
    findings = Findings(skipped=[{"file": "c.jpg", "problem": "is no image"}])
    two = np.array([[1.234, 2, 3, 4.004, 0.98766, 1], [0, 0, 9, 9, 0.5, 0]], np.float32)
    findings.add(frame("a.png"), two, StepTimes(1.0, 2.0, 3.0), DETECTOR)
    findings.add(frame("b.png", 7), np.zeros((0, 6), np.float32), StepTimes(2.0, 4.0, 3.0), DETECTOR)
    return findings


def test_pictures_are_counted_with_what_is_in_them():
    findings = filled()
    first, second = findings.images
    assert findings.objects == 2 and second["detections"] == []
    assert (first["file"], first["frame"], first["width"], first["height"]) == ("a.png", 0, 40, 30)
    assert second["frame"] == 7
    assert first["detections"][0] == {"class": 1, "name": "dog", "score": 0.9877, "box": [1.23, 2.0, 3.0, 4.0]}
    assert findings.median_times() == {"pre": 1.5, "inference": 3.0, "post": 3.0}


def test_both_files_hold_every_detection(tmp_path):
    filled().write(ResultsFolder(tmp_path, ()), DETECTOR)
    document = json.loads((tmp_path / "detections.json").read_text())
    assert document["engine"] == {"runtime": "none"} and document["names"] == ["cat", "dog"]
    assert (document["score_threshold"], document["iou_threshold"]) == (0.4, 0.45)
    assert document["skipped"] == [{"file": "c.jpg", "problem": "is no image"}]
    assert [len(image["detections"]) for image in document["images"]] == [2, 0]
    header, *rows = csv.reader(io.StringIO((tmp_path / "detections.csv").read_text()))
    assert tuple(header) == COLUMNS
    assert rows == [
        ["a.png", "0", "1", "dog", "0.9877", "1.23", "2.0", "3.0", "4.0"],
        ["a.png", "0", "0", "cat", "0.5", "0.0", "0.0", "9.0", "9.0"],
    ]


def test_a_picture_without_pixels_is_not_counted():
    with pytest.raises(AssertionError, match="is skipped"):
        Findings().add(Frame("c.jpg", 0, None, "is no image"), np.zeros((0, 6)), StepTimes(0, 0, 0), DETECTOR)


def test_quotes_commas_and_line_breaks_in_names_survive_the_csv() -> None:
    file, name = 'a "large", b.png', 'cat, "tabby"\nlong-haired'
    found = {"class": 3, "name": name, "score": 0.5, "box": [1.0, 2.0, 3.5, 4.0]}
    text = Findings(images=[{"file": file, "frame": 0, "detections": [found]}]).csv()
    (row,) = csv.DictReader(io.StringIO(text, newline=""))
    assert (row["file"], row["name"], row["class"], row["y2"]) == (file, name, "3", "4.0")
