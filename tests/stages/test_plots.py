"""`dvc plots show` draws every plot of `dvc.yaml`, and asks for nothing of a network."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from stages.shared.trainings import write_no_epochs
from tests.support.browser import needs_chromium, outside_resources, render
from tests.support.pipeline import ROOT
from yolov6core.base.tables import write_rows
from yolov6core.base.yaml_text import parse_yaml

pytestmark = pytest.mark.slow
CURVES = 5
"""Plots that Vega draws."""


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A DVC project of the committed settings and plots, with made-up files for all of them."""
    folder = tmp_path_factory.mktemp("plots")
    (folder / ".dvc").mkdir()
    (folder / ".dvc" / "config").write_text((ROOT / ".dvc/config").read_text(encoding="utf-8"), encoding="utf-8")
    (folder / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n", encoding="utf-8")
    (folder / ".dvc" / "plots").symlink_to(ROOT / ".dvc" / "plots")
    plots = parse_yaml((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["plots"]
    (folder / "dvc.yaml").write_text(json.dumps({"plots": plots}), encoding="utf-8")
    for plot in plots:
        if isinstance(plot, str):
            _write_picture(folder / plot)
            continue
        (settings,) = plot.values()
        for path, column in settings["y"].items():
            write_rows(folder / path, [{settings["x"]: place, column: 1 / place} for place in (1, 2, 3)])
    return folder


def _write_picture(path: Path) -> None:
    file = path if path.suffix else path / "one.jpg"
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), np.zeros((8, 8, 3), np.uint8))


def show(project: Path) -> tuple[str, str]:
    """The page of the plots, and what DVC says."""
    command = [sys.executable, "-m", "dvc", "plots", "show"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return (project / "dvc_plots" / "index.html").read_text(encoding="utf-8"), done.stdout + done.stderr


def specs(page: str) -> list[dict[str, Any]]:
    return [json.loads(text) for text in re.findall(r"var spec = (\{.*?\});\n", page, re.DOTALL)]


def test_plots_need_no_network(project):
    page, said = show(project)
    assert outside_resources(page) == []
    assert "failed" not in said
    assert len(specs(page)) == CURVES and all(spec["data"]["values"] for spec in specs(page))


def test_weights_that_were_given_leave_no_gap(project):
    """As after `train.epochs: 0` and `search.scales`: there are no epochs to show, and nothing to complain of."""
    for folder in ("train", "scales"):
        write_no_epochs(project / "artifacts" / folder)
    page, said = show(project)
    assert "failed" not in said
    assert len(specs(page)) == CURVES and all(spec["data"]["values"] for spec in specs(page))


@needs_chromium
def test_a_browser_draws_the_plots(project, tmp_path):
    show(project)
    seen = render(project / "dvc_plots" / "index.html", tmp_path)
    assert [line for line in seen.console if "WARN" not in line] == [], "Vega warns of DVC's template of confusions"
    assert seen.facts["requests"] == []
    assert seen.facts["canvases"] == CURVES and all(width > 0 for width in seen.facts["images"])
