"""Pickle instructions by hand, and archives made of them: what a hostile file can hold and torch.save never writes."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    data = value.to_bytes(9, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def call(function: bytes, *args: bytes) -> bytes:
    return function + b"(" + b"".join(args) + b"tR"


def storage(kind: str = "FloatStorage", key: str = "0", numel: int = 6) -> bytes:
    return b"(" + text("storage") + name("torch", kind) + text(key) + text("cpu") + number(numel) + b"tQ"


def view(of: bytes | None = None, offset: int = 0, size: tuple[int, ...] = (2, 3), stride: tuple[int, ...] = (3, 1)):
    hooks = call(name("collections", "OrderedDict"))
    parts = (of or storage(), number(offset), numbers(*size), numbers(*stride), b"\x89", hooks)
    return call(name("torch._utils", "_rebuild_tensor_v2"), *parts)


def forge(
    path: Path, body: bytes, *, records: dict[str, bytes] | None = None, packing: int = zipfile.ZIP_STORED
) -> Path:
    """An archive whose pickle has these instructions; one storage of six floats unless other records are given."""
    if records is None:
        records = {"data/0": struct.pack("<6f", *range(6))}
    with zipfile.ZipFile(path, "w", packing) as archive:
        for key, data in {"data.pkl": b"\x80\x02" + body + b".", **records}.items():
            archive.writestr(f"archive/{key}", data)
    return path
