"""Training images kept after decoding and the first resize, in memory or on disk, for all loader processes together.

They lie one after the other in a file without a name, which ends with the last process that has it open: nothing is
left behind, however a training ends. Whoever decodes an image first appends it, by `pwrite`, for which a full disk is
an error; through a memory map it would be a signal that kills. All read through one map, so no image is copied.
"""

from __future__ import annotations

import mmap
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from yolov6core.base.errors import logger

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

Kind = Literal["none", "ram", "disk"]
FREE_SHARE = 0.5
"""Share of the free memory or disk that images may take, whatever the limit: the training needs some, too."""
LONGEST_SIDE = 2**12
_SIDE_BITS = 12
_WORD = 8  # bytes
MOST_BYTES = 2**38
"""What places of `_WORD` can name, and more than a training needs."""
MEMORY_FACTS = Path("/proc/meminfo")
CONTAINERS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory"))
"""Control group of a container, of versions 2 and 1."""


class ImageCache:
    """Images by index, uint8 [h, w, 3] with sides up to `LONGEST_SIDE`, as far as there is room.

    In the file: bytes used, one word an image (0: absent; else its place + 1, height - 1 and width - 1), pixels. A word
    is written after its pixels, in one piece, so a reader finds the whole image or none.
    """

    def __init__(self, file: IO[bytes], count: int, room: int) -> None:
        """Args:
        file: unbuffered, open for reading and writing; empty, or that of another cache of the same numbers.
        count: number of images.
        room: bytes of pixels.
        """
        self._file, self._count, self._room = file, count, room
        self._start = _WORD * (1 + count)
        os.ftruncate(file.fileno(), self._start + room)  # takes no room before something is written
        self._map = mmap.mmap(file.fileno(), self._start + room, prot=mmap.PROT_READ)
        self._words = np.frombuffer(self._map, dtype=np.int64, count=count, offset=_WORD)
        self._pixels = np.frombuffer(self._map, dtype=np.uint8, offset=self._start)

    def __reduce__(self) -> tuple[Callable[..., ImageCache | None], tuple[Any, ...]]:
        """For loader processes that are not forked: they open the same file by the number it has here (Linux)."""
        return _opened_again, (f"/proc/{os.getpid()}/fd/{self._file.fileno()}", self._count, self._room)

    def get(self, index: int) -> NDArray[np.uint8] | None:
        """The image, read only, or None."""
        word = int(self._words[index])
        if not word:
            return None
        width, height = word % LONGEST_SIDE + 1, (word >> _SIDE_BITS) % LONGEST_SIDE + 1
        place = (word >> 2 * _SIDE_BITS) - 1
        return self._pixels[place : place + height * width * 3].reshape(height, width, 3)

    def put(self, index: int, image: NDArray[np.uint8]) -> None:
        """Keep an image if there is room for it."""
        height, width = image.shape[:2]
        if max(height, width) > LONGEST_SIDE:
            return
        try:
            if self.used + image.nbytes <= self._room:
                self._append(index, np.ascontiguousarray(image))
        except OSError as error:
            self._room = 0
            logger.warning("no further training image is kept (%s): the others are decoded every time", error.strerror)

    @property
    def used(self) -> int:
        """Bytes of pixels."""
        return int.from_bytes(os.pread(self._file.fileno(), _WORD, 0), sys.byteorder)

    def _append(self, index: int, image: NDArray[np.uint8]) -> None:
        """Write an image behind the others, unless another process has done so or has taken the room."""
        assert fcntl is not None, "there is no cache without"
        fcntl.lockf(self._file, fcntl.LOCK_EX, _WORD)  # a process that is killed holds nothing
        try:
            place, height, width = self.used, *image.shape[:2]
            if self._words[index] or place + image.nbytes > self._room:
                return
            word = (place + 1 << 2 * _SIDE_BITS) + (height - 1 << _SIDE_BITS) + width - 1
            self._write((place + image.nbytes).to_bytes(_WORD, sys.byteorder), 0)
            self._write(image.tobytes(), self._start + place)
            self._write(word.to_bytes(_WORD, sys.byteorder), _WORD * (1 + index))
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, _WORD)

    def _write(self, data: bytes, place: int) -> None:
        while data:
            written = os.pwrite(self._file.fileno(), data, place)
            data, place = data[written:], place + written


def _opened_again(path: str, count: int, room: int) -> ImageCache | None:
    try:
        return ImageCache(open(path, "r+b", buffering=0), count, room)
    except OSError:
        return None


def make_cache(kind: Kind, *, count: int, image_bytes: int, limit_mib: int, folder: Path) -> ImageCache | None:
    """A cache for `count` images of up to `image_bytes`; it says its size, and why it is smaller than all of them.

    Args:
        kind: where images are kept; `none` keeps none.
        limit_mib: MiB that they may take; 0 keeps none. `FREE_SHARE` of what is free is another limit.
        folder: on the disk that `disk` uses; made if it is missing.

    Returns: None where nothing is kept: as asked, on Windows, or because the file cannot be made, which is said.
    """
    if kind == "none" or not limit_mib or fcntl is None:
        return None
    wanted, limit = count * image_bytes, limit_mib * 2**20
    try:
        file, free = _memory_file() if kind == "ram" else _disk_file(folder)
        room = min(wanted, limit, int(free * FREE_SHARE), MOST_BYTES)
        cache = ImageCache(file, count, room)
    except OSError as error:
        logger.warning("runtime.cache: training images are decoded every time, nothing is kept (%s)", error)
        return None
    where = "in memory" if kind == "ram" else f"on the disk of {folder}"
    logger.info("training images are kept %s once decoded, in up to %d MiB", where, -(-room // 2**20))
    if room < wanted:
        reason = f"runtime.cache_mib is {limit_mib}" if room == limit else f"of {free // 2**20} MiB free, half is taken"
        logger.warning(
            "all %d images may need %d MiB, but %s; those beyond are decoded every time. %s",
            count,
            -(-wanted // 2**20),
            reason,
            "Raise runtime.cache_mib, or choose runtime.cache disk" if kind == "ram" else "Raise it, or make room",
        )
    return cache


def _memory_file() -> tuple[IO[bytes], int]:
    """A file in memory, and the free bytes there. Systems other than Linux keep a temporary file in memory as well."""
    if sys.platform == "linux":
        return open(os.memfd_create("training images"), "r+b", buffering=0), free_memory()
    return tempfile.TemporaryFile(buffering=0), shutil.disk_usage(tempfile.gettempdir()).free


def _disk_file(folder: Path) -> tuple[IO[bytes], int]:
    """A file without a name on the disk of a folder, and the free bytes there."""
    folder.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryFile(dir=folder, buffering=0), shutil.disk_usage(folder).free


def free_memory() -> int:
    """Bytes that this process may still take: of the machine, and of its container (Linux)."""
    machine = _numbers(MEMORY_FACTS.read_text(encoding="ascii"))["MemAvailable:"] * 1024
    groups = [group for group in CONTAINERS if (group / "memory.stat").is_file()]
    return min([machine, *(left for group in groups if (left := _left_in(group)) is not None)])


def _left_in(group: Path) -> int | None:
    """Bytes left in a control group of either version; None: it has no limit. Files read once count as free."""
    for limit, used, unused in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        if (group / limit).is_file():
            most, now = ((group / name).read_text(encoding="ascii").strip() for name in (limit, used))
            freeable = _numbers((group / "memory.stat").read_text(encoding="ascii")).get(unused, 0)
            return int(most) - int(now) + freeable if most.isdecimal() else None
    return None


def _numbers(text: str) -> dict[str, int]:
    """`name number ...` lines of the kernel by name."""
    return {words[0]: int(words[1]) for line in text.splitlines() if len(words := line.split()) > 1}
