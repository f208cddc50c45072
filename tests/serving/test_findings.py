"""Detections of many pictures, counted and written."""

from __future__ import annotations

import csv
import io

from yolov6core.serving.findings import Findings


def test_quotes_commas_and_line_breaks_in_names_survive_the_csv() -> None:
    file, name = 'a "large", b.png', 'cat, "tabby"\nlong-haired'
    found = {"class": 3, "name": name, "score": 0.5, "box": [1.0, 2.0, 3.5, 4.0]}
    text = Findings(images=[{"file": file, "frame": 0, "detections": [found]}]).csv()
    (row,) = csv.DictReader(io.StringIO(text, newline=""))
    assert (row["file"], row["name"], row["class"], row["y2"]) == (file, name, "3", "4.0")
