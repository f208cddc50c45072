"""What is said of a checked dataset before it is written."""

from __future__ import annotations

import logging
from collections import Counter

import pytest

from yolov6core.datasets.images import Images
from yolov6core.datasets.prepared import CLASS_ROWS, PreparedDataset


def summary(names: list[str], train: dict[str, int], caplog: pytest.LogCaptureFixture) -> list[str]:
    """Lines of the summary of a dataset with boxes of some classes in train, and one box of each in val."""
    boxes = {"train": Counter(train), "select": Counter(), "val": Counter(names)}
    splits = {split: Images() for split in boxes}
    with caplog.at_level(logging.INFO):
        PreparedDataset("root", splits, Images(), boxes, names, []).log_summary()
    return caplog.text.splitlines()


def test_few_classes_stand_in_their_order(caplog) -> None:
    lines = summary(["dog", "cat"], {"dog": 3, "cat": 1}, caplog)
    rows = [line.split() for line in lines if line.startswith(("dog", "cat"))]
    assert rows == [["dog", "3", "0", "1"], ["cat", "1", "0", "1"]]
    assert not any("cannot be learnt" in line for line in lines)


def test_of_many_classes_the_rarest_are_shown(caplog) -> None:
    names = [f"thing{index}" for index in range(80)]
    lines = summary(names, {name: 80 - index for index, name in enumerate(names[:65])}, caplog)
    rows = [line.split()[0] for line in lines if line.startswith("thing")]
    assert len(rows) == CLASS_ROWS == 30 and rows == names[65:] + names[64:49:-1]
    assert any("the 30 rarest of 80" in line for line in lines)
    (warning,) = (line for line in lines if "cannot be learnt" in line)
    assert "thing65, " in warning and "thing74 and 5 more" in warning
