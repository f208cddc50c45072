"""`infer`: detect on an image, a folder, a video or a camera; draw, save, and say how long it took (not a stage)."""

from __future__ import annotations

import csv
import io
import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from stages import paths
from yolov6core.atomic import write_json, write_text
from yolov6core.data.frames import Frame, Frames, find_frames
from yolov6core.engines.cpu import warning
from yolov6core.engines.registry import open_engine, open_file
from yolov6core.engines.runtime import SIDECAR, BuildSettings, Engine, EngineMismatch, RuntimeMissing, read_info
from yolov6core.errors import UserError, logger
from yolov6core.evaluation.plots import draw_boxes, save_jpeg
from yolov6core.tasks.engine_detector import EngineDetector, StepTimes
from yolov6core.yaml_text import parse_yaml

DATASET_NAMES = paths.DATASET / "dataset.yaml"
REBUILD = "rebuild it here with 'dvc repro --force build-trt'"
COLUMNS = ("file", "frame", "class", "name", "score", "x1", "y1", "x2", "y2")
STEPS = ("pre", "inference", "post")
CAMERA_RATE = 25.0
"""Frames a second of a video from a camera: a camera that is open cannot be asked again."""


@dataclass(frozen=True)
class Thresholds:
    """Weakest score that counts, and the IoU above which the weaker of two boxes of a class goes."""

    score: float = 0.4
    iou: float = 0.45


@dataclass
class Findings:
    """What becomes the JSON and CSV files."""

    images: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)

    def csv(self) -> str:
        """One line a detection."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for image in self.images:
            for found in image["detections"]:
                values = (image["file"], image["frame"], found["class"], found["name"], found["score"])
                writer.writerow((*values, *found["box"]))
        return text.getvalue()


def infer(
    engine: Path,
    source: str,
    *,
    out: Path = paths.INFER,
    runtime: str = "auto",
    names: Path | None = None,
    thresholds: Thresholds = Thresholds(),
) -> None:
    """Write drawn pictures (or a video), `detections.json` and `detections.csv` into `out`.

    Raises:
        UserError: no such engine or source, an engine of another place, or no picture that could be read.
    """
    try:
        frames = find_frames(source)
    except ValueError as error:
        raise UserError(str(error)) from None
    if frames.paths and out.resolve() == frames.paths[0].parent.resolve():
        raise UserError(f"--out {out} holds the source itself, whose images would be overwritten; give another folder")
    opened = _open(engine, runtime)
    logger.info("%s", opened.info.describe())
    if warning(opened.info):
        logger.warning("%s", warning(opened.info))
    detector = EngineDetector(
        opened, _names(names, opened), score_threshold=thresholds.score, iou_threshold=thresholds.iou
    )
    out.mkdir(parents=True, exist_ok=True)
    findings = Findings()
    try:
        _run(detector, frames, out, findings)
    except KeyboardInterrupt:  # how a camera is stopped
        logger.info("stopped")
    _finish(findings, detector, frames, out)


def _open(path: Path, runtime: str) -> Engine:
    if path.is_file() and path.suffix == ".onnx" and not (path.parent / SIDECAR).is_file():
        try:
            engine, reason = open_file(path, runtime, BuildSettings())
        except ValueError as error:
            raise UserError(f"{path}: {error}") from None
        logger.info("runtime %s (%s)", engine.info.runtime, reason)
        return engine
    folder = path.parent if path.is_file() else path
    if not (folder / SIDECAR).is_file():
        inside = sorted(entry.parent.name for entry in folder.glob(f"*/{SIDECAR}"))
        hint = f"; it holds {', '.join(inside)}: give one of them" if inside else "; run 'dvc repro build-trt' first"
        raise UserError(f"--engine {path} is neither an ONNX file nor a folder with an {SIDECAR}{hint}")
    try:
        if runtime not in ("auto", read_info(folder).runtime):
            built = read_info(folder).runtime
            raise UserError(f"{folder} was built for {built}; --runtime {runtime} runs ONNX files only")
        return open_engine(folder)
    except EngineMismatch as error:
        raise UserError(f"{folder}: {error}; {REBUILD}") from None
    except RuntimeMissing as error:
        raise UserError(f"{folder}: {error}; choose another engine.runtime, or {REBUILD}") from None


def _names(path: Path | None, engine: Engine) -> tuple[str, ...]:
    """Names as asked for, as the engine says, or of the prepared dataset if their number fits; else none."""
    if path is not None:
        if not path.is_file():
            raise UserError(f"--names {path} does not exist; give a dataset.yaml or a text file with a name a line")
        text = path.read_text(encoding="utf-8")
        found = parse_yaml(text).get("names", []) if path.suffix in (".yaml", ".yml") else text.split("\n")
        found = found.values() if isinstance(found, dict) else found
        return tuple(str(name).strip() for name in found if str(name).strip())
    if engine.info.names:
        return engine.info.names
    shape = engine.info.outputs.get("scores", ())
    if DATASET_NAMES.is_file() and shape:
        found = parse_yaml(DATASET_NAMES.read_text(encoding="utf-8"))["names"]
        if len(found) == shape[-1]:
            return tuple(found)
    logger.warning("no class names are known, numbers are written instead; give --names")
    return ()


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
            findings.images.append(_row(frame, frame.image, found, times, detector))
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


def _row(
    frame: Frame, image: np.ndarray, found: np.ndarray, times: StepTimes, detector: EngineDetector
) -> dict[str, Any]:
    detections = [
        {
            "class": int(row[5]),
            "name": detector.name(int(row[5])),
            "score": round(float(row[4]), 4),
            "box": [round(float(value), 2) for value in row[:4]],
        }
        for row in found
    ]
    size = {"width": image.shape[1], "height": image.shape[0]}
    milliseconds = {step: round(value, 3) for step, value in asdict(times).items()}
    return {"file": frame.name, "frame": frame.number, **size, "ms": milliseconds, "detections": detections}


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
    write_json(
        out / "detections.json",
        {
            "engine": json.loads(detector.engine.info.to_json()),
            "names": list(detector.names),
            "score_threshold": detector.score_threshold,
            "iou_threshold": detector.iou_threshold,
            "images": findings.images,
            "skipped": findings.skipped,
        },
    )
    write_text(out / "detections.csv", findings.csv())
    medians = {step: statistics.median(image["ms"][step] for image in findings.images) for step in STEPS}
    steps = ", ".join(f"{step} {value:.2f}" for step, value in medians.items())
    objects = sum(len(image["detections"]) for image in findings.images)
    logger.info(
        "%d pictures (%d skipped), %d objects; medians: %s ms, %.0f pictures a second -> %s",
        len(findings.images),
        len(findings.skipped),
        objects,
        steps,
        1000 / sum(medians.values()),
        out,
    )
