"""Sources of pictures: what cannot be read is named, and nothing is waited for."""

from __future__ import annotations

import os
import struct

import cv2
import numpy as np

from yolov6core.data.frames import find_frames


def test_odd_pictures_are_named(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 9, 3), np.uint8))
    (tmp_path / "b.png").write_bytes(b"")
    (tmp_path / "c.gif").write_bytes(b"GIF89a" + struct.pack("<HH", 65535, 65535) + bytes(20))
    (tmp_path / "d.png").write_bytes(b"no picture")
    os.mkfifo(tmp_path / "e.png")
    frames = {frame.name: frame for frame in find_frames(str(tmp_path))}
    assert list(frames) == ["a.png", "b.png", "c.gif", "d.png"]
    image = frames["a.png"].image
    assert image is not None and image.shape == (8, 9, 3)
    assert "is empty" in frames["b.png"].problem and "OpenCV can decode" in frames["d.png"].problem
    assert "65535x65535 pixels; at most" in frames["c.gif"].problem


def test_what_vanishes_between_is_named(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 9, 3), np.uint8))
    frames = find_frames(str(tmp_path))
    (tmp_path / "a.png").unlink()
    os.mkfifo(tmp_path / "a.png")
    assert [frame.problem for frame in frames] == [
        f"cannot be read ({tmp_path}/a.png is a FIFO; only regular files are read)"
    ]
