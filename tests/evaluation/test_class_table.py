"""The table of mAP by class in the log."""

from __future__ import annotations

import logging
from types import SimpleNamespace

from yolov6core.evaluation.class_table import ROWS, log_classes


def result(**scores: float | None) -> SimpleNamespace:
    return SimpleNamespace(per_class={name: {"map50_95": value, "map50": value} for name, value in scores.items()})


def test_two_models_are_side_by_side_without_classes_that_val_lacks(caplog):
    with caplog.at_level(logging.INFO):
        log_classes({"float": result(dog=0.5, cat=0.25, cow=None), "ptq": result(dog=0.4, cat=0.2, cow=None)})
    lines = [line.split() for line in caplog.messages[0].splitlines()]
    assert lines[1:] == [
        ["float", "mAP50:95", "ptq", "mAP50:95", "float", "mAP50", "ptq", "mAP50"],
        ["dog", "0.5000", "0.4000", "0.5000", "0.4000"],
        ["cat", "0.2500", "0.2000", "0.2500", "0.2000"],
    ]


def test_of_more_models_the_main_figure_is_shown(caplog):
    with caplog.at_level(logging.INFO):
        log_classes(dict.fromkeys(("float", "ptq", "qat"), result(dog=0.5)))
    assert "mAP50:95" in caplog.text and "mAP50 " not in caplog.messages[0]


def test_of_many_classes_the_lowest_are_shown_and_names_are_harmless(caplog):
    many = {f"class{number}": number / 100 for number in range(99, 0, -1)} | {"a\x1b[2J": 0.0}
    with caplog.at_level(logging.INFO):
        log_classes({"float": result(**many)})
    lines = caplog.messages[0].splitlines()
    assert "the 30 lowest of 100" in lines[0] and len(lines) == ROWS + 2
    assert lines[2].split() == ["a\\x1b[2J", "0.0000", "0.0000"] and lines[-1].split()[0] == "class29"


def test_without_classes_there_is_no_table(caplog):
    with caplog.at_level(logging.INFO):
        log_classes({"float": result(cow=None)})
    assert not caplog.messages
