"""`infer`: detect on an image, a folder, a video or a camera; draw, save, and say how long it took (not a stage)."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np

from stages.shared import paths
from yolov6core.base.errors import UserError, logger
from yolov6core.data.frames import Frames, find_frames
from yolov6core.engines.complaints import unsuitable_cpu
from yolov6core.evaluation.plots import draw_boxes, save_jpeg
from yolov6core.serving.engine_detector import EngineDetector
from yolov6core.serving.findings import Findings
from yolov6core.serving.open_engine import class_names, open_any

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
        UserError: no such engine or source, an engine of another place, or no picture that could be read.
    """
    try:
        frames = find_frames(source)
    except ValueError as error:
        raise UserError(str(error)) from None
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
    out.mkdir(parents=True, exist_ok=True)
    findings = Findings()
    try:
        _run(detector, frames, out, findings)
    except KeyboardInterrupt:  # how a camera is stopped
        logger.info("stopped")
    _finish(findings, detector, frames, out)


def _run(detector: EngineDetector, frames: Frames, out: Path, findings: Findings) -> None:
    writer = None
    try:
        for frame in frames:
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
            if frames.video is None:
                save_jpeg(picture, out / _picture_name(frame.name))
            else:
                writer = writer or _writer(out / f"{Path(frames.name).stem}.mp4", picture, frames)
                writer.write(picture)
    finally:
        if writer is not None:
            writer.release()


def _drawn(image: np.ndarray, found: np.ndarray, detector: EngineDetector) -> np.ndarray:
    labels = found[:, 5].astype(int)
    names = {label: detector.name(label) for label in set(labels.tolist())}
    return draw_boxes(image, found[:, :4], labels, names, scores=found[:, 4])


def _picture_name(name: str) -> str:
    """Of the drawn picture: `a.png` beside `a.jpg` must not become the same file."""
    return name if name.lower().endswith((".jpg", ".jpeg")) else f"{name}.jpg"


def _writer(path: Path, picture: np.ndarray, frames: Frames) -> cv2.VideoWriter:
    height, width = picture.shape[:2]
    rate = CAMERA_RATE if isinstance(frames.video, int) else frames.rate()
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate, (width, height))
    if not writer.isOpened():
        raise UserError(f"{path} cannot be written as a video; OpenCV lacks the codec mp4v")
    return writer


def _finish(findings: Findings, detector: EngineDetector, frames: Frames, out: Path) -> None:
    if not findings.images:
        raise UserError(f"none of the {len(findings.skipped)} pictures in {frames.name} could be read")
    findings.write(out, detector)
    medians = findings.median_times()
    logger.info(
        "%d pictures (%d skipped), %d objects; medians: %s ms, %.0f pictures a second -> %s",
        len(findings.images),
        len(findings.skipped),
        findings.objects,
        ", ".join(f"{step} {value:.2f}" for step, value in medians.items()),
        1000 / sum(medians.values()),
        out,
    )
