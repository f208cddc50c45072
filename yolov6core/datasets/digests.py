"""Digests of image files, so that changed pixels are seen by everything that depends on a prepared dataset."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from yolov6core.base.atomic import write_text
from yolov6core.base.progress import tracked

CHUNK = 2**20
DIGEST_BYTES = 16


def write_digests(path: Path, images: Iterable[str]) -> None:
    """Write one line an image, sorted: digest (BLAKE2b, 128 bits, hex), bytes, path.

    Files are read in threads: hashing lets them run side by side.

    Raises:
        OSError: an image cannot be read.
    """
    names = sorted(set(images))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = tracked(pool.map(digest_of, names), "digests of images", total=len(names))
        lines = [f"{digest} {size} {name}\n" for name, (digest, size) in zip(names, found, strict=True)]
    write_text(path, "".join(lines))


def digest_of(name: str) -> tuple[str, int]:
    """Digest and length in bytes of a file."""
    digest, size = hashlib.blake2b(digest_size=DIGEST_BYTES), 0
    with open(name, "rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return digest.hexdigest(), size
