"""Files written by `torch.save`: a zip archive of one pickle and one record of raw numbers per storage.

No code in the file is run (`torch_pickle`), and every view is checked against its storage.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from yolov6core.pretrained.torch_pickle import Refusal, StorageRef, TensorRecord, read_pickle

MAX_PICKLE_BYTES = 64 * 2**20  # a small official checkpoint has 0.3 MB; the length grows with the number of layers only


@dataclass(frozen=True)
class TorchArchive:
    """Contents of a file: `root` with stubs and tensor records in it, and the storages as flat tensors by key."""

    path: Path
    root: Any
    storages: dict[str, Tensor]

    def tensor(self, record: TensorRecord) -> Tensor:
        """The tensor of a record: on the CPU, of the stored dtype, in the memory of its storage.

        Raises:
            ValueError: the view reaches outside of its storage, or repeats elements.
        """
        storage, offset, size, stride = record
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if 0 not in size and (last >= storage.numel or math.prod(size) > storage.numel):
            raise ValueError(
                f"{self.path} has a tensor of size {size}, stride {stride} and offset {offset}, which does not fit "
                f"its storage of {storage.numel} elements; the file is damaged or forged: download it again"
            )
        return self.storages[storage.key].as_strided(size, stride, offset)


def read_torch_archive(path: Path) -> TorchArchive:
    """Read a file of `torch.save` in the zip form of torch 1.6 and later.

    Raises:
        ValueError: the file is missing, has another format, is damaged, or asks for a name that is not on the list of
            `torch_pickle`; the message names the file and the finding.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not a file; give the path of a downloaded checkpoint")
    with path.open("rb") as handle, _errors_name(path):
        _check_format(handle.read(64))
        with zipfile.ZipFile(handle) as archive:
            records = _records(archive, path.stat().st_size)
            if "byteorder" in records and archive.read(records["byteorder"]) != b"little":
                raise Refusal("was not written in little-endian byte order; save it again on an ordinary machine")
            root, refs = read_pickle(archive.read(records["data.pkl"]))
            return TorchArchive(path, root, {ref.key: _read_storage(archive, records, ref) for ref in refs})


@contextmanager
def _errors_name(path: Path) -> Iterator[None]:
    try:
        yield
    except Refusal as error:
        raise ValueError(f"{path} {error}") from error
    except Exception as error:  # damaged archives and pickles raise nearly everything
        raise ValueError(
            f"{path} is truncated or damaged ({type(error).__name__}: {error}); download or copy it again"
        ) from error


def _check_format(head: bytes) -> None:
    if head.startswith(b"PK"):
        return
    if head.startswith(b"\x80"):
        found = "is a bare pickle, as torch wrote before 1.6; load it where you trust it and torch.save it again"
    elif head[8:9] == b"{":
        found = "is a safetensors file; give it the suffix .safetensors"
    elif head.lstrip().startswith(b"<"):
        found = "is a web page, not a checkpoint; download the file itself"
    else:
        found = "is not a zip archive, so torch.save did not write it; download it again"
    raise Refusal(found)


def _records(archive: zipfile.ZipFile, file_bytes: int) -> dict[str, zipfile.ZipInfo]:
    """Records by their name inside the only folder of the archive, such as `data.pkl` and `data/0`."""
    members = archive.infolist()
    pickles = [item.filename for item in members if item.filename.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1:
        raise Refusal(f"is a zip archive with {len(pickles)} data.pkl instead of one, so torch.save did not write it")
    for item in members:
        if item.compress_type != zipfile.ZIP_STORED:
            raise Refusal(f"has the compressed record {item.filename!r}; torch.save writes none: download it again")
    if sum(item.file_size for item in members) > file_bytes:
        raise Refusal(
            f"declares records longer than its {file_bytes} bytes; it is damaged or forged: download it again"
        )
    records = {item.filename.removeprefix(pickles[0].removesuffix("data.pkl")): item for item in members}
    if records["data.pkl"].file_size > MAX_PICKLE_BYTES:
        raise Refusal(
            f"has a data.pkl above {MAX_PICKLE_BYTES} bytes, far beyond any checkpoint; save only the weights"
        )
    return records


def _read_storage(archive: zipfile.ZipFile, records: dict[str, zipfile.ZipInfo], ref: StorageRef) -> Tensor:
    """All elements of a storage, flat."""
    item = records.get(f"data/{ref.key}")
    if item is None:
        raise Refusal(f"lacks the record {f'data/{ref.key}'!r} of one of its tensors; download it again")
    if item.file_size != ref.numel * ref.dtype.itemsize:
        raise Refusal(
            f"has {item.file_size} bytes in {item.filename!r}, which should hold {ref.numel} elements of {ref.dtype}; "
            "it is damaged or forged: download it again"
        )
    if ref.numel == 0:
        return torch.empty(0, dtype=ref.dtype)
    return torch.frombuffer(bytearray(archive.read(item)), dtype=ref.dtype)
