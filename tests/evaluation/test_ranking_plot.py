"""The ranking's picture is written, the same for the same ranking, and shows which layers stay float."""

from __future__ import annotations

import cv2

from yolov6core.evaluation.ranking_plot import ranking_picture


def test_the_picture_shows_layers_and_choice(tmp_path):
    sensitivity = {f"layer.{i}": 0.5**i for i in range(60)} | {"none": 0.0}
    for name, marked in (("a", ("layer.55",)), ("b", ("layer.55",)), ("c", ())):
        ranking_picture(sensitivity, tmp_path / f"{name}.png", marked=marked, label="share of the sensitivity, %")
    pictures = {name: (tmp_path / f"{name}.png").read_bytes() for name in "abc"}
    assert pictures["a"] == pictures["b"] != pictures["c"]
    tall, short = (cv2.imread(str(tmp_path / f"{name}.png")) for name in "ac")
    assert tall.shape[0] > short.shape[0], "a float layer is shown however little sensitive"
    red = (tall[..., 2] > 180) & (tall[..., 0] < 80)
    assert red.sum() > 20


def test_a_ranking_without_sensitivity_is_drawn(tmp_path):
    ranking_picture({"a": 0.0}, tmp_path / "none.png", label="share of the sensitivity, %")
    assert (tmp_path / "none.png").is_file()
