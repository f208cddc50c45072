"""`detect-cpu`: how the CPU that INT8 is made for adds integers, where DVC sees it: another answer calibrates anew."""

from __future__ import annotations

from stages.params import PtqParams
from stages.shared import paths
from stages.shared.start_line import log_start
from yolov6core.base.cpu_record import write_record
from yolov6core.base.errors import logger
from yolov6core.engines.cpu import integer_arithmetic, resolved


def detect_cpu(ptq: PtqParams) -> None:
    """Write `sums`: `exact` or `saturating`, `ptq.cpu` with `auto` replaced by what the CPU at hand does; and `cpu`."""
    log_start("detect-cpu", device="cpu")
    logger.info("this CPU: %s", integer_arithmetic().describe())
    sums = resolved(ptq.cpu)
    write_record(paths.CPU, asked=ptq.cpu, sums=sums)
    logger.info("INT8 is made for CPUs with %s sums (ptq.cpu %s) -> %s", sums, ptq.cpu, paths.CPU)
