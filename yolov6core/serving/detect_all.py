"""All pictures of a source through a detector: drawn, saved and counted."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from yolov6core.base.errors import logger
from yolov6core.data.frames import Frames
from yolov6core.evaluation.plots import JPEG_SIDE, draw_boxes, jpeg
from yolov6core.serving.drawn_video import DrawnVideo
from yolov6core.serving.engine_detector import EngineDetector
from yolov6core.serving.findings import Findings
from yolov6core.serving.results_folder import ResultsFolder, picture_names
from yolov6core.serving.sources import pictures

CAMERA_RATE = 25.0
"""Frames a second of a video from a camera: a camera that is open cannot be asked again."""


def output_names(frames: Frames) -> dict[str, str]:
    """Name of each image, or of the video -> name of the drawn file."""
    if frames.video is not None:
        return {frames.name: f"{Path(frames.name).stem}.mp4"}
    return picture_names(path.name for path in frames.paths)


def detect_all(detector: EngineDetector, frames: Frames, results: ResultsFolder, findings: Findings) -> None:
    """Detect on all pictures of a source, draw and save them, and count what was found.

    Raises:
        UserError: a drawn file cannot be written.
    """
    drawn = output_names(frames)
    video = None if frames.video is None else DrawnVideo(results, drawn[frames.name], _rate(frames))
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
