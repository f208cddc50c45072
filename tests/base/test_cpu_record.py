"""The record of integer sums: read as written, one message for anything else."""

from __future__ import annotations

import pytest

from yolov6core.base.cpu_record import read_record, write_record
from yolov6core.base.errors import UserError


def test_a_record_is_read_as_written(tmp_path) -> None:
    write_record(tmp_path / "cpu.json", asked="auto", sums="saturating")
    assert read_record(tmp_path / "cpu.json") == ("auto", "saturating")


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"cpu": "auto"}', '{"cpu": "auto", "sums": "some"}', "\xff"])
def test_anything_else_is_one_message(tmp_path, text) -> None:
    (tmp_path / "cpu.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match="cpu.json does not say exact or saturating sums: run 'dvc repro detect-cpu'"):
        read_record(tmp_path / "cpu.json")
