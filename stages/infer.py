"""`infer`: detect on an image, a folder, a video or a camera; draw, save, and say how long it took (not a stage)."""

from __future__ import annotations

from pathlib import Path

from stages.shared import paths
from yolov6core.base.errors import UserError, logger
from yolov6core.data.frames import Frames
from yolov6core.engines.complaints import second_classes, unsuitable_cpu
from yolov6core.serving.detect_all import detect_all, output_names
from yolov6core.serving.engine_detector import EngineDetector
from yolov6core.serving.findings import Findings
from yolov6core.serving.open_engine import class_names, open_any
from yolov6core.serving.results_folder import ResultsFolder
from yolov6core.serving.sources import open_source

DATASET_NAMES = paths.DATASET / "dataset.yaml"


def infer(
    engine: Path,
    source: str,
    *,
    out: Path = paths.INFER,
    runtime: str = "auto",
    names: Path | None = None,
    score: float = 0.4,
    iou: float = 0.45,
) -> None:
    """Write drawn pictures (or a video), `detections.json` and `detections.csv` into `out`.

    Args:
        engine: folder of an engine, or an ONNX file, which `runtime` runs.
        source: image, folder, video, or number of a camera.
        names: file of class names, see `class_names`.
        score, iou: weakest score that counts, and the overlap from which the weaker of two boxes of a class goes.

    Raises:
        UserError: no such engine or source, an engine of another place, no picture that could be read, or an output
            would replace a file that no run of `infer` wrote.
    """
    frames = open_source(source)
    if frames.paths and out.resolve() == frames.paths[0].parent.resolve():
        raise UserError(f"--out {out} holds the source itself, whose images would be overwritten; give another folder")
    opened = open_any(engine, runtime)
    logger.info("%s", opened.info.describe())
    if unsuitable_cpu(opened.info):
        logger.warning("%s", unsuitable_cpu(opened.info))
    if second_classes(opened.info):
        logger.info("%s", second_classes(opened.info))
    detector = EngineDetector(
        opened,
        class_names(names, opened, dataset=DATASET_NAMES),
        score_threshold=score,
        iou_threshold=iou,
    )
    results = ResultsFolder(out, output_names(frames).values())
    findings = Findings()
    try:
        detect_all(detector, frames, results, findings)
    except KeyboardInterrupt:  # how a camera is stopped
        logger.info("stopped")
    except BaseException:
        results.abandon()
        raise
    _finish(findings, detector, frames, results)


def _finish(findings: Findings, detector: EngineDetector, frames: Frames, results: ResultsFolder) -> None:
    if not findings.images:
        raise UserError(f"none of the {len(findings.skipped)} pictures in {frames.name} could be read")
    findings.write(results, detector)
    medians = findings.median_times()
    logger.info(
        "%d pictures (%d skipped), %d objects; medians: %s ms, %.0f pictures a second -> %s",
        len(findings.images),
        len(findings.skipped),
        findings.objects,
        ", ".join(f"{step} {value:.2f}" for step, value in medians.items()),
        1000 / sum(medians.values()),
        results.path,
    )
