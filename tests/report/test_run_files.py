"""Tables are read as what they say, whatever names look like."""

from __future__ import annotations

import numpy as np

from tests.report.conftest import KINDS
from yolov6core.base.tables import write_rows
from yolov6core.report.run_files import Run, read_rows


def test_names_stay_text_and_empty_cells_are_none(tmp_path):
    write_rows(tmp_path / "a.csv", [{"class": "1", "map50": 0.5, "n": 3}, {"class": "nan", "map50": None, "n": 4}])
    assert read_rows(tmp_path / "a.csv") == [
        {"class": "1", "map50": 0.5, "n": 3},
        {"class": "nan", "map50": None, "n": 4},
    ]


def test_a_column_of_words_stays_words(tmp_path):
    (tmp_path / "a.csv").write_text("cpu_sums,x\nexact,1\n,2.5\n", encoding="utf-8")
    assert read_rows(tmp_path / "a.csv") == [{"cpu_sums": "exact", "x": 1}, {"cpu_sums": None, "x": 2.5}]


def test_files_without_rows_and_no_files_are_empty(tmp_path):
    write_rows(tmp_path / "a.csv", [], columns=("epoch", "total"))
    assert read_rows(tmp_path / "a.csv") == read_rows(tmp_path / "b.csv") == []


def test_a_loss_called_class_is_a_number(run_folders):
    assert Run(run_folders).epochs()["float"][0]["class"] == 1.0


def test_detections_are_by_kind_and_image(run_folders):
    found = Run(run_folders).detections()
    np.testing.assert_array_equal(found["float"][2], [[2, 2, 20, 20, 0.9, 0]])
    assert list(found) == list(KINDS) and found["qat"] == {}, "a kind that finds nothing is a kind"
