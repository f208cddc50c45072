"""`report`: one page that shows a run, to be opened, printed and mailed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.shared import paths
from stages.shared.shell import required
from yolov6core.base.atomic import replace_folder, write_text
from yolov6core.base.errors import UserError, logger
from yolov6core.report.page import report_page
from yolov6core.report.run_files import RunFolders

PAGE = "index.html"


def report(parameters: Mapping[str, Mapping[str, Any]], *, out: Path = paths.REPORT) -> None:
    """Write `index.html` into `out`.

    Args:
        parameters: section -> key -> value of the run.

    Raises:
        UserError: the dataset or the comparison of the engines is missing or damaged.
    """
    folders = RunFolders(
        dataset=required(paths.DATASET, made_by="prepare-voc2yolo"),
        scales=paths.SCALES,
        train=paths.TRAIN,
        ptq=paths.PTQ,
        sensitivity=paths.SENSITIVITY,
        qat=paths.QAT,
        onnx=paths.ONNX,
        engines=paths.ENGINES,
        eval=required(paths.EVAL, made_by="eval-trt"),
    )
    try:
        page = report_page(folders, parameters)
    except ValueError as error:
        raise UserError(f"the report cannot be made: {error}") from error
    with replace_folder(out) as folder:
        write_text(folder / PAGE, page)
    logger.info("%s: %.1f MB, opens without a network", out / PAGE, len(page.encode()) / 1e6)
