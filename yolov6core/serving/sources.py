"""Sources of pictures that a user names: whatever is in the files, a run ends with a message or goes on without one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import cv2

from yolov6core.base.errors import UserError
from yolov6core.data.frames import Frame, Frames, find_frames

MAX_FILE_BYTES = 2**30
"""Larger image files are not read: no camera writes them."""


def open_source(source: str) -> Frames:
    """Find the pictures of a source, see `find_frames`.

    Raises:
        UserError: there are none, or the source is no regular file, no folder and no camera.
    """
    path = Path(source)
    try:
        if os.path.lexists(path) and not path.is_dir() and not path.is_file():
            what = "a link to nothing" if path.is_symlink() and not path.exists() else "a pipe, a socket or a device"
            raise UserError(f"source {source} is {what}; give an image, a folder, a video, or a camera's number")
        return find_frames(source)
    except ValueError as error:
        raise UserError(f"{'' if 'source' in str(error) else f'source {source}: '}{error}") from None
    except (OSError, OverflowError, cv2.error) as error:
        raise UserError(f"source {source} cannot be opened ({_brief(error)})") from None


def pictures(frames: Frames) -> Iterator[Frame]:
    """All pictures in order; one that cannot be decoded has no pixels, and the problem in words.

    Raises:
        UserError: a video or camera breaks off with an error of its library.
    """
    if frames.video is None:
        yield from (_read(path) for path in frames.paths)
        return
    stream = iter(frames)
    while True:
        try:
            frame = next(stream, None)
        except (OSError, ValueError, MemoryError, cv2.error) as error:
            raise UserError(f"source {frames.name} cannot be read any further ({_brief(error)})") from None
        if frame is None:
            return
        yield frame


def _read(path: Path) -> Frame:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            return Frame(path.name, 0, None, f"has more than {MAX_FILE_BYTES >> 20} MiB, too much for an image")
        return next(iter(Frames(path.name, paths=(path,))))
    except OSError as error:
        return Frame(path.name, 0, None, f"cannot be read ({error.strerror})")
    except MemoryError as error:  # the next picture may be smaller
        return Frame(path.name, 0, None, f"cannot be decoded ({_brief(error)})")


def _brief(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text[:200] or type(error).__name__
