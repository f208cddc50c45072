"""All pictures of a source through a detector: drawn, saved and counted."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from yolov6core.base.errors import logger
from yolov6core.base.overlap import Behind, ahead
from yolov6core.data.frames import Frames
from yolov6core.evaluation.plots import JPEG_SIDE, draw_boxes, jpeg
from yolov6core.serving.drawn_video import DrawnVideo
from yolov6core.serving.engine_detector import EngineDetector
from yolov6core.serving.findings import Findings
from yolov6core.serving.results_folder import ResultsFolder, picture_names
from yolov6core.serving.sources import pictures

CAMERA_RATE = 25.0
"""Frames a second of a video from a camera: a camera that is open cannot be asked again."""
FRAMES_AHEAD = 4
"""Frames of a video that wait for the detector, and as many that wait to be drawn and written."""
IMAGES_AHEAD = 1
"""The same of image files, which may be large."""


def output_names(frames: Frames) -> dict[str, str]:
    """Name of each image, or of the video -> name of the drawn file."""
    if frames.video is not None:
        return {frames.name: f"{Path(frames.name).stem}.mp4"}
    return picture_names(path.name for path in frames.paths)


def detect_all(detector: EngineDetector, frames: Frames, results: ResultsFolder, findings: Findings) -> None:
    """Detect on all pictures of a source, draw and save them, and count what was found.

    Reading goes on ahead of the detector, drawing and writing behind it, each in a thread.

    Raises:
        UserError: a drawn file cannot be written.
    """
    drawn = output_names(frames)
    video = None if frames.video is None else DrawnVideo(results, drawn[frames.name], _rate(frames))
    depth = IMAGES_AHEAD if frames.video is None else FRAMES_AHEAD

    def save(picture: NDArray[np.uint8], found: NDArray[np.float32], name: str) -> None:
        picture = _drawn(picture, found, detector)
        if video is not None:
            video.write(picture)
        elif max(picture.shape) <= JPEG_SIDE:
            results.write(drawn[name], jpeg(picture))
        else:
            logger.warning("%s is too large for JPEG, so it is not drawn", name)

    keep = False
    try:
        with Behind(depth) as behind, closing(ahead(pictures(frames), depth)) as source:
            for frame in source:
                if frame.image is None:
                    logger.warning("%s %s; skipped", frame.name, frame.problem)
                    findings.skipped.append({"file": frame.name, "problem": frame.problem})
                    continue
                if not findings.images:
                    detector(frame.image)  # warm-up, so that the first time is like the others
                found, times = detector(frame.image)
                # First into the line, so that nothing counts as found that is not drawn.
                behind.do(partial(save, frame.image, found, frame.name))
                findings.add(frame, found, times, detector)
                where = frame.name if frames.video is None else f"{frame.name} frame {frame.number}"
                steps = ", ".join(f"{step} {value:.2f}" for step, value in asdict(times).items())
                logger.info("%s: %d objects; %s ms", where, len(found), steps)
        keep = True
    except KeyboardInterrupt:  # what was found until then is drawn
        keep = True
        raise
    finally:
        if video is not None:
            video.close(keep=keep)


def _rate(frames: Frames) -> float:
    return CAMERA_RATE if isinstance(frames.video, int) else frames.rate()


def _drawn(image: NDArray[np.uint8], found: NDArray[np.float32], detector: EngineDetector) -> NDArray[np.uint8]:
    labels = found[:, 5].astype(int)
    names = {label: detector.name(label) for label in set(labels.tolist())}
    return draw_boxes(image, found[:, :4], labels, names, scores=found[:, 4])
