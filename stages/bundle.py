"""`bundle`: a folder with everything that a device needs to build, run and check a model (not a stage)."""

from __future__ import annotations

from pathlib import Path

from stages.params import EngineParams, ExportParams, RuntimeParams
from stages.shared import paths
from stages.shared.shell import required
from yolov6core.base.errors import UserError
from yolov6core.base.threads import set_threads
from yolov6core.bundle.make import make_bundle
from yolov6core.bundle.request import TARGETS, BundleRequest
from yolov6core.export.check import Tolerance
from yolov6core.export.file_form import FileForm


def bundle(
    export: ExportParams,
    engine: EngineParams,
    runtime: RuntimeParams,
    *,
    kind: str,
    target: str,
    tensorrt: str = "",
    out: Path | None = None,
) -> None:
    """Write the bundle of a model, by default to `artifacts/bundle/<kind>-<target>`.

    Args:
        tensorrt: major version that the folder is for; empty for all.

    Raises:
        UserError: no such kind or target, and see `make_bundle`.
    """
    for option, value, allowed in (("--kind", kind, tuple(paths.WEIGHTS)), ("--target", target, TARGETS)):
        if value not in allowed:
            raise UserError(f"{option} {value} is unknown; choose one of {', '.join(allowed)}")
    set_threads(runtime.threads)
    request = BundleRequest(
        kind=kind,
        target=target,
        weights=required(paths.WEIGHTS[kind], made_by=paths.MADE_BY[kind]),
        dataset=required(paths.DATASET, made_by="prepare-voc2yolo"),
        allow=Tolerance(export.tolerance, export.quant_tolerance),
        files=FileForm.of(export.model_dump()),
        max_batch=engine.max_batch,
        tensorrt=tensorrt,
    )
    make_bundle(request, out or paths.BUNDLE / f"{kind}-{target}")
