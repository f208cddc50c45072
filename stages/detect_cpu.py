"""`detect-cpu`: what INT8 is made for, where DVC sees it: another answer calibrates anew.

The integer sums of the CPU, and the dialect of the runtime: its grid is what choices and QAT are judged on.
"""

from __future__ import annotations

from stages.params import PtqParams
from stages.shared import paths
from stages.shared.start_line import log_start
from yolov6core.base.auto_record import write_meaning
from yolov6core.base.errors import UserError, logger
from yolov6core.engines.cpu import integer_arithmetic, resolved
from yolov6core.engines.registry import dialect_of
from yolov6core.engines.runtime import RuntimeMissing


def detect_cpu(ptq: PtqParams, runtime: str = "auto") -> None:
    """Write `.cpu.json` and `.dialect.json`: kind of sums and dialect, with `auto` replaced by its meaning here.

    Args:
        runtime: of the engines, engine.runtime.

    Raises:
        UserError: ptq.dialect is auto, and no runtime is usable here.
    """
    log_start("detect-cpu", device="cpu")
    logger.info("this CPU: %s", integer_arithmetic().describe())
    sums = resolved(ptq.cpu)
    write_meaning(paths.CPU, asked=ptq.cpu, meaning=sums)
    logger.info("INT8 is made for CPUs with %s sums (ptq.cpu %s) -> %s", sums, ptq.cpu, paths.CPU)
    try:
        dialect = dialect_of(runtime) if ptq.dialect == "auto" else ptq.dialect
    except RuntimeMissing as error:
        raise UserError(f"ptq.dialect auto: {error}; set ptq.dialect to openvino, ort or trt") from None
    write_meaning(paths.DIALECT, asked=ptq.dialect, meaning=dialect)
    logger.info(
        "INT8 is judged on the integers of dialect %s (ptq.dialect %s) -> %s", dialect, ptq.dialect, paths.DIALECT
    )
