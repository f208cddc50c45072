"""Points stand where they belong, and their names never cover each other."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from yolov6core.evaluation.tradeoff import tradeoff_figure, tradeoff_picture

POINTS = {
    "float": (2.0, 0.4, 0.01),
    "naive": (0.9, 0.38, 0.01),
    "ptq": (0.91, 0.39, 0.01),
    "partial": (0.9, 0.39, 0.0),
    "qat": (0.9, 0.39, 0.012),
}


def test_every_point_is_drawn_with_its_error_and_named():
    figure = tradeoff_figure(POINTS, title="here")
    (axes,) = figure.axes
    assert axes.get_title() == "here" and "ms" in axes.get_xlabel() and "mAP50:95" in axes.get_ylabel()
    markers = [container.lines[0] for container in axes.containers]
    assert [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in markers] == [
        p[:2] for p in POINTS.values()
    ]
    assert len({line.get_marker() for line in markers}) == len({line.get_color() for line in markers}) == len(POINTS)
    (segment,) = axes.containers[4].lines[2][0].get_segments()
    assert segment[:, 1] == pytest.approx([0.378, 0.402])
    (legend,) = figure.legends
    assert [text.get_text().split(":")[0] for text in legend.get_texts()] == list(POINTS)


def test_names_are_clear_of_each_other_and_of_the_axes():
    figure = tradeoff_figure(POINTS, title="here")
    figure.draw_without_rendering()
    (legend,) = figure.legends
    extents = [text.get_window_extent() for text in legend.get_texts()]
    for extent in extents:
        assert extent.count_overlaps(extents) == 1, "only with itself"
        assert not extent.overlaps(figure.axes[0].get_window_extent())
        assert figure.bbox.containsx(extent.x0) and figure.bbox.containsx(extent.x1) and extent.y0 >= 0


def test_the_picture_is_written(tmp_path):
    tradeoff_picture({"float": (2.0, 0.4, 0.0)}, tmp_path / "summary.png", title="here")
    picture = cv2.imread(str(tmp_path / "summary.png"))
    assert picture.shape == (400, 600, 3)
    blue = (np.array(to_rgb("tab:blue")[::-1]) * 255).round()
    assert (np.abs(picture - blue).max(axis=2) < 3).sum() > 30
