"""A video through reading, detecting and drawing at the same time: order, ends and errors."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from stages.infer import infer
from tests.support.patch_detector import picture, write_patch_detector
from yolov6core.base.errors import UserError
from yolov6core.serving.drawn_video import DrawnVideo
from yolov6core.serving.engine_detector import EngineDetector

GREEN = (0, 255, 0)
FRAMES = 24
SIDE = 256
CELL = SIDE // 4


@pytest.fixture
def clip(tmp_path) -> Path:
    """A green square that goes round the 16 cells."""
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (SIDE, SIDE))
    if not writer.isOpened():
        pytest.skip("this OpenCV cannot write videos")
    for number in range(FRAMES):
        writer.write(picture(GREEN, number % 4, number // 4 % 4, size=SIDE))
    writer.release()
    return path


def cells(images: list[dict]) -> list[int]:
    """Number of the cell found in each frame."""
    boxes = [image["detections"][0]["box"] for image in images]
    return [round(box[0] / CELL) + 4 * round(box[1] / CELL) for box in boxes]


def frames_of(path: Path) -> list[np.ndarray]:
    capture, found = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        found.append(read[1])
    return found


def run(clip: Path, tmp_path: Path) -> Path:
    out = tmp_path / "out"
    infer(write_patch_detector(tmp_path / "patches.onnx"), str(clip), out=out)
    return out


def no_thread_is_left() -> bool:
    return not [thread for thread in threading.enumerate() if thread.name in ("ahead", "behind")]


def assert_whole(out: Path, count: int) -> None:
    """The document and the video hold the first `count` frames, and nothing else lies in the folder."""
    images = json.loads((out / "detections.json").read_text())["images"]
    assert [image["frame"] for image in images] == list(range(count))
    assert cells(images) == [number % 16 for number in range(count)]
    drawn = frames_of(out / "clip.mp4")
    assert len(drawn) == count
    for number, frame in enumerate(drawn):
        column, row = number % 4, number // 4 % 4
        # The tag of the box covers part of it; the lower half stays green, in this frame alone.
        top, left = CELL * row, CELL * column
        inside = frame[top + CELL // 2 : top + CELL - 8, left + 8 : left + CELL - 8]
        assert inside[..., 1].mean() > 100, f"frame {number}"
    assert {path.name for path in out.iterdir()} == {"clip.mp4", "detections.json", "detections.csv"}


def test_frames_keep_their_order_and_none_is_lost(clip, tmp_path) -> None:
    assert_whole(run(clip, tmp_path), FRAMES)
    assert no_thread_is_left()


def test_what_was_found_before_an_interruption_is_drawn(clip, tmp_path, monkeypatch) -> None:
    calls, real = [], EngineDetector.__call__

    def interrupted(self, image):
        calls.append(image)
        if len(calls) == 11:  # the first call warms up
            raise KeyboardInterrupt
        return real(self, image)

    monkeypatch.setattr(EngineDetector, "__call__", interrupted)
    assert_whole(run(clip, tmp_path), 9)
    assert no_thread_is_left()


def test_an_error_in_writing_ends_the_run_without_a_half_video(clip, tmp_path, monkeypatch) -> None:
    written, real = [], DrawnVideo.write

    def full(self, image):
        written.append(image)
        if len(written) == 5:
            raise UserError("the disk is full")
        real(self, image)

    monkeypatch.setattr(DrawnVideo, "write", full)
    with pytest.raises(UserError, match="the disk is full"):
        run(clip, tmp_path)
    assert len(written) == 5, "nothing is written after the error"
    assert not list((tmp_path / "out").iterdir())
    assert no_thread_is_left()
