"""Sources of pictures: one image, the images of a folder, a video or a camera."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import cv2
import numpy as np

from yolov6core.base.inputs import read_bytes
from yolov6core.data.image_header import IMAGE_SUFFIXES, MAX_BYTES, check_claimed_size
from yolov6core.data.transforms import Image

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")


@dataclass(frozen=True)
class Frame:
    """One picture, uint8 BGR [h, w, 3], or None and the problem in words."""

    name: str
    number: int
    image: Image | None
    problem: str = ""


@dataclass(frozen=True)
class Frames:
    """The pictures of a source: image files, or one video or camera.

    Attributes:
        paths: of images, in order of their names; empty for a video or camera.
        video: file of a video or number of a camera; None for images.
    """

    name: str
    paths: tuple[Path, ...] = ()
    video: str | int | None = None

    def __iter__(self) -> Iterator[Frame]:
        """All pictures in order; a frame without picture, and with the problem, for an unreadable image."""
        if self.video is None:
            yield from (_read(path) for path in self.paths)
            return
        capture = _open(self.video)
        try:
            number = 0
            while True:
                more, image = capture.read()
                if not more:
                    break
                yield Frame(self.name, number, cast(Image, image))
                number += 1
        finally:
            capture.release()

    def rate(self) -> float:
        """Frames per second of a video or camera; 25 if it is unknown."""
        assert self.video is not None, "images have no rate"
        capture = _open(self.video)
        try:
            found = capture.get(cv2.CAP_PROP_FPS)
        finally:
            capture.release()
        return found if 0 < found < 1000 else 25.0


def find_frames(source: str) -> Frames:
    """Find the pictures of a source.

    Args:
        source: an image, a folder with images, a video, or the number of a camera.

    Raises:
        ValueError: the source does not exist, holds no images, or cannot be opened.
    """
    path = Path(source)
    if source.isdecimal() and not path.exists():
        _open(int(source)).release()
        return Frames(f"camera{source}", video=int(source))
    if path.is_dir():
        return Frames(path.name, paths=_images_in(path))
    if not path.is_file():
        raise ValueError(f"source {source} does not exist; give an image, a folder, a video, or a camera's number")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return Frames(path.name, paths=(path,))
    if path.suffix.lower() in VIDEOS:
        _open(source).release()
        return Frames(path.name, video=source)
    raise ValueError(
        f"source {source} is neither an image ({', '.join(IMAGE_SUFFIXES)}) "
        f"nor a video ({', '.join(VIDEOS)}) by its name"
    )


def _images_in(folder: Path) -> tuple[Path, ...]:
    found = tuple(sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()))
    if found:
        return found
    below = sorted({path.parent for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES})
    hint = f"; there are some in {below[0]}" if below else ""
    raise ValueError(f"folder {folder} holds no images ({', '.join(IMAGE_SUFFIXES)}){hint}")


def _read(path: Path) -> Frame:
    try:
        data = read_bytes(str(path), limit=MAX_BYTES)
        check_claimed_size(data)
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR) if data else None
    except OSError as error:
        return Frame(path.name, 0, None, f"cannot be read ({error.strerror})")
    except (ValueError, cv2.error) as error:
        return Frame(path.name, 0, None, f"cannot be read ({error})")
    if image is None:
        return Frame(path.name, 0, None, "is no image that OpenCV can decode" if data else "is empty")
    return Frame(path.name, 0, cast(Image, image))


def _open(video: str | int) -> cv2.VideoCapture:
    capture = cv2.VideoCapture(video)
    if capture.isOpened():
        return capture
    if isinstance(video, int):
        raise ValueError(f"camera {video} cannot be opened; is it connected, free, and may you read /dev/video{video}?")
    raise ValueError(f"video {video} cannot be opened; OpenCV may lack its codec, or the file is damaged")
