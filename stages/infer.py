"""`infer`: detect on an image, a folder, a video or a camera; draw, save, and say how long it took (not a stage)."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.shared import paths
from yolov6core.base.errors import UserError, logger
from yolov6core.data.frames import Frames
from yolov6core.engines.complaints import unsuitable_cpu
from yolov6core.evaluation.plots import JPEG_SIDE, draw_boxes, jpeg
from yolov6core.serving.drawn_video import DrawnVideo, video_name
from yolov6core.serving.engine_detector import EngineDetector
from yolov6core.serving.findings import Findings
from yolov6core.serving.open_engine import class_names, open_any
from yolov6core.serving.results_folder import ResultsFolder, picture_names
from yolov6core.serving.sources import open_source, pictures

DATASET_NAMES = paths.DATASET / "dataset.yaml"
CAMERA_RATE = 25.0
"""Frames a second of a video from a camera: a camera that is open cannot be asked again."""


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
    detector = EngineDetector(
        opened,
        class_names(names, opened, dataset=DATASET_NAMES),
        score_threshold=score,
        iou_threshold=iou,
    )
    drawn = picture_names(path.name for path in frames.paths)
    results = ResultsFolder(out, drawn.values() if frames.video is None else [video_name(frames.name)])
    findings = Findings()
    try:
        _run(detector, frames, results, drawn, findings)
    except KeyboardInterrupt:  # how a camera is stopped
        logger.info("stopped")
    except BaseException:
        results.abandon()
        raise
    _finish(findings, detector, frames, results)


def _run(
    detector: EngineDetector, frames: Frames, results: ResultsFolder, drawn: dict[str, str], findings: Findings
) -> None:
    video = None if frames.video is None else DrawnVideo(results, video_name(frames.name), _rate(frames))
    try:
        for frame in pictures(frames):
            if frame.image is None:
                logger.warning("%s %s; skipped", frame.name, frame.problem)
                findings.skipped.append({"file": frame.name, "problem": frame.problem})
                continue
            if not findings.images:
                detector(frame.image)  # warm-up, so that the first time is like the others
            found, times = detector(frame.image)
            findings.add(frame, found, times, detector)
            where = frame.name if frames.video is None else f"{frame.name} frame {frame.number}"
            steps = ", ".join(f"{step} {value:.2f}" for step, value in asdict(times).items())
            logger.info("%s: %d objects; %s ms", where, len(found), steps)
            picture = _drawn(frame.image, found, detector)
            if video is not None:
                video.write(picture)
            elif max(picture.shape) <= JPEG_SIDE:
                results.write(drawn[frame.name], jpeg(picture))
            else:
                logger.warning("%s is too large for JPEG, so it is not drawn", where)
    finally:
        if video is not None:
            video.close()


def _rate(frames: Frames) -> float:
    return CAMERA_RATE if isinstance(frames.video, int) else frames.rate()


def _drawn(image: NDArray[np.uint8], found: NDArray[np.float32], detector: EngineDetector) -> NDArray[np.uint8]:
    labels = found[:, 5].astype(int)
    names = {label: detector.name(label) for label in set(labels.tolist())}
    return draw_boxes(image, found[:, :4], labels, names, scores=found[:, 4])


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
