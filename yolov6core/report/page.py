"""The page: everything that is shown, put into the template."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from yolov6core.data.dataset import DetectionDataset
from yolov6core.report.accuracy import comparison
from yolov6core.report.facts import (
    dataset_facts,
    differing_parameters,
    environment_rows,
    exported_files,
    not_measured,
)
from yolov6core.report.figures import Charts
from yolov6core.report.making import calibration, float_layers, scale_facts, trainings
from yolov6core.report.pictures import picture_file, pictures
from yolov6core.report.run_files import Run, RunFolders

TEMPLATES = Path(__file__).parent / "templates"
NOTHING = "\u2013"
"""Shown for a figure that is not known."""


def report_page(folders: RunFolders, parameters: Mapping[str, Mapping[str, Any]]) -> str:
    """The report of a run as one HTML page that asks for nothing else; equal files give an equal page.

    Args:
        parameters: section -> key -> value of the run.

    Raises:
        ValueError: the dataset's folder is damaged.
    """
    run, charts = Run(folders), Charts()
    dataset = DetectionDataset(folders.dataset, "val")
    compared = comparison(run, charts)
    return (
        environment()
        .get_template("page.html")
        .render(
            model=parameters.get("model", {}),
            images=len(dataset),
            comparison=compared,
            pictures=pictures(run, dataset, compared["best"]),
            trainings=trainings(run, charts),
            batch=picture_file(folders.train / "batch.jpg"),
            scales=scale_facts(run, charts),
            calibration=calibration(run, charts),
            layers=float_layers(run, charts),
            dataset=dataset_facts(run, dataset.names, charts),
            exported=exported_files(run),
            environment=list(environment_rows(run)),
            parameters=differing_parameters(parameters),
            unknown=list(not_measured(run)),
        )
    )


def environment() -> Environment:
    """Templates that escape whatever they are given, and fail on names that nobody gave."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["fixed"] = fixed
    made.filters["short"] = short
    made.globals["inline"] = inline
    return made


def inline(name: str) -> Markup:
    """A file beside the templates, as it is."""
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


def fixed(value: float | None, digits: int, factor: float = 1.0, sign: str = "") -> str:
    """A number with so many decimals; `sign` is "+" to show it always."""
    return NOTHING if value is None else f"{value * factor:{sign}.{digits}f}"


def short(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits, and without an exponent from a thousandth on."""
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:#.{digits}g}".rstrip(".")
