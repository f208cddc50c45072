"""The record of what `auto` means: read as written, one message for anything else."""

from __future__ import annotations

from functools import partial

import pytest

from yolov6core.base.auto_record import read_meaning, write_meaning
from yolov6core.base.errors import UserError

read_sums = partial(read_meaning, parameter="ptq.cpu", allowed=("exact", "saturating"))


def test_a_record_is_read_as_written(tmp_path) -> None:
    write_meaning(tmp_path / "cpu.json", asked="auto", meaning="saturating")
    assert read_sums(tmp_path / "cpu.json") == "saturating"
    assert read_sums(tmp_path / "cpu.json", asked="auto") == "saturating"
    with pytest.raises(
        UserError, match="cpu.json does not say what ptq.cpu exact means here: run 'dvc repro detect-cpu'"
    ):
        read_sums(tmp_path / "cpu.json", asked="exact")


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{}", '{"asked": "auto"}', '{"asked": "auto", "meaning": "some"}', "\xff"]
)
def test_anything_else_is_one_message(tmp_path, text) -> None:
    (tmp_path / "cpu.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match="cpu.json does not say what ptq.cpu means here: run 'dvc repro detect-cpu'"):
        read_sums(tmp_path / "cpu.json")
