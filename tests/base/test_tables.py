"""Tables as CSV files."""

from __future__ import annotations

import pandas as pd

from yolov6core.base.tables import write_rows


def test_no_text_of_a_table_is_a_formula(tmp_path) -> None:
    rows = [{"class": "=1+1", "map50_95": -0.123456789}, {"class": "cat"}]
    write_rows(tmp_path / "t.csv", rows, digits=3)
    assert (tmp_path / "t.csv").read_text() == "class,map50_95\n'=1+1,-0.123\ncat,\n"
    write_rows(tmp_path / "t.csv", rows, columns=["map50_95", "class"])
    assert list(pd.read_csv(tmp_path / "t.csv").columns) == ["map50_95", "class"]
