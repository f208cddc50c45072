"""`detect-cpu`: how the CPU that INT8 is made for adds integers, where DVC sees it: another answer calibrates anew."""

from __future__ import annotations

from pathlib import Path

from stages._params import DEFAULT_PARAMS, ParamsFile, PtqParams, read_params
from stages._report import stage_errors
from yolov6core.atomic import write_json
from yolov6core.errors import logger

OUT = Path(".cpu.json")
"""Not in DVC's cache and not in Git: it belongs to the machine, and a clone makes its own."""


def detect_cpu_cli(params: ParamsFile = DEFAULT_PARAMS) -> None:
    """Say what integer sums INT8 is made for (ptq.cpu, resolved): .cpu.json."""
    (ptq,) = read_params(params, ptq=PtqParams)
    with stage_errors():
        detect_cpu(ptq)


def detect_cpu(ptq: PtqParams) -> None:
    """Write `sums`: `exact` or `saturating`, `ptq.cpu` with `auto` replaced by what the CPU at hand does."""
    from yolov6core.engines.cpu import integer_arithmetic, resolved

    logger.info("this CPU: %s", integer_arithmetic().describe())
    sums = resolved(ptq.cpu)
    write_json(OUT, {"sums": sums})
    logger.info("INT8 is made for CPUs with %s sums (ptq.cpu %s) -> %s", sums, ptq.cpu, OUT)
