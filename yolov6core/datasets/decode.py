"""Decodes pictures in full, in processes: what fails here would fail in the middle of a training."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context

import cv2
import numpy as np

from yolov6core.base.errors import logger
from yolov6core.base.inputs import read_bytes
from yolov6core.base.parent import end_with_starter
from yolov6core.base.progress import Bar, working
from yolov6core.data.image_header import MAX_BYTES, read_image_header
from yolov6core.datasets.annotated import DatasetError, Problem
from yolov6core.datasets.images import Images
from yolov6core.datasets.reading import in_words

ALONE = 512
"""Fewer pictures are decoded in this process: to start others takes as long."""
CHUNK = 64
LOG_SECONDS = 5.0
_SIXTEENTH = 2**12  # of the range of 16 bits
_TIFF = (b"II*\0", b"MM\0*")

Finding = tuple[str, str, str]  # kind of problem, path, detail
Work = tuple[str, tuple[int, int] | None]  # path, (height, width) that the header tells


def drop_undecodable(images: Images, problems: list[Problem], *, name: str, processes: int = 0) -> Images:
    """The images that decode, others are reported.

    Args:
        images: checked images, with the sizes of their headers.
        name: of the images, for the lines that tell how far the work is.
        processes: 0 for as many as there are cores.

    Raises:
        DatasetError: a picture ends the decoder's process.
    """
    work = zip(images.paths(), images.sizes(), strict=True)
    bad: set[str] = set()
    for kind, path, detail in _findings(work, len(images), name, processes or os.cpu_count() or 1):
        problems.append(Problem(kind, path, detail))
        if kind != "narrow_range":
            bad.add(path)
    if not bad:
        return images
    return images.part(place for place, path in enumerate(images.paths()) if path not in bad)


def check_picture(path: str, size: tuple[int, int] | None) -> Finding | None:
    """Decode a picture; the problem found, if any.

    Args:
        size: (height, width) that the header tells, None if unknown.
    """
    try:
        header = read_image_header(path)
        data = read_bytes(path, limit=MAX_BYTES)
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR)
    except Exception as error:
        return "undecodable_image", path, in_words(error)
    if image is None:
        return "undecodable_image", path, "damaged, or of a kind that OpenCV cannot decode"
    shape = (image.shape[0], image.shape[1])
    if size is not None and shape != (header.height, header.width):
        return "undecodable_image", path, f"decodes to {shape[1]}x{shape[0]}, its header tells {size[1]}x{size[0]}"
    return _narrow(path, data)


def _narrow(path: str, data: bytes) -> Finding | None:
    """The problem of a 16-bit picture that keeps few values: the 8 bits that networks get are its upper ones."""
    if not (data[:4] in _TIFF or (data[:4] == b"\x89PNG" and data[24:25] == b"\x10")):
        return None
    image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.dtype != np.uint16:
        return None
    low, high = int(image.min()), int(image.max())
    return ("narrow_range", path, f"values {low} to {high} of 0 to 65535") if high - low < _SIXTEENTH else None


def _check_chunk(chunk: Sequence[Work]) -> list[Finding]:
    return [finding for path, size in chunk if (finding := check_picture(path, size)) is not None]


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    cv2.setNumThreads(1)
    end_with_starter(1)


def _chunks(work: Iterable[Work]) -> Iterator[list]:
    source = iter(work)
    while chunk := list(islice(source, CHUNK)):
        yield chunk


def _findings(work: Iterable[Work], count: int, name: str, processes: int) -> Iterator[Finding]:
    with working(f"decoding {name}", total=count) as bar:
        progress = _Told(bar)
        yield from _in_this_process(work, progress) if count < ALONE else _in_others(work, progress, processes)


def _in_this_process(work: Iterable[Work], progress: _Told) -> Iterator[Finding]:
    for chunk in _chunks(work):
        yield from _check_chunk(chunk)
        progress.add(len(chunk))


def _in_others(work: Iterable[Work], progress: _Told, processes: int) -> Iterator[Finding]:
    waiting: list = []
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_start_worker) as pool:
        try:
            for chunk in _chunks(work):  # few at a time: a million waiting tasks take memory
                waiting.append((pool.submit(_check_chunk, chunk), chunk))
                if len(waiting) > 4 * processes:
                    yield from _next_result(waiting, progress)
            while waiting:
                yield from _next_result(waiting, progress)
        except BrokenProcessPool as error:
            first, last = waiting[0][1][0][0], waiting[-1][1][-1][0]
            raise DatasetError(
                f"a picture between {first} and {last} ends the decoder's process; remove it, "
                "or set prepare.decode to judged to decode less"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _next_result(waiting: list, progress: _Told) -> list[Finding]:
    found = waiting[0][0].result()
    progress.add(len(waiting.pop(0)[1]))
    return found


class _Told:
    """How far the decoding is: a bar where one is shown, else a line every few seconds."""

    def __init__(self, bar: Bar) -> None:
        self._bar, self._last = bar, time.monotonic()

    def add(self, count: int) -> None:
        """Count further images as done."""
        bar, now = self._bar, time.monotonic()
        bar.add(count)
        if bar.progress.shown or now - self._last < LOG_SECONDS:
            return
        self._last = now
        logger.info("%s: %d of %d images, %.0f a second", bar.title, bar.done, bar.total, bar.rate() or 0)
