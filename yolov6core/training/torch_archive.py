"""Files written by `torch.save`, read without running anything of them.

Such a file is a zip archive: a pickle, which can call any function of the machine that opens it, and one record of raw
numbers per storage. Here the pickle is read with a closed list of what it may ask for:

- tensors become descriptions (`TensorRecord`); numbers are read afterwards and every view is checked against its storage;
- classes of `yolov6` and `torch.nn` become a `Stub` of ours that keeps the attributes; no name is ever imported;
- anything else is an error.
"""

from __future__ import annotations

import math
import pickle
import pickletools
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

MAX_PICKLE_BYTES = 64 * 2**20  # the pickle of the largest official model, optimizer included, is below 2 MiB
MAX_EXTENT = 2**31  # larger sizes, strides and offsets do not occur and would overflow inside torch

# What protocols 2 to 4 write. Left out: the extension registry, calls by text opcodes, buffers outside the pickle.
OPCODES = frozenset(
    "PROTO FRAME STOP MARK POP POP_MARK DUP BINGET LONG_BINGET BINPUT LONG_BINPUT MEMOIZE "
    "NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT "
    "BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 "
    "EMPTY_LIST APPEND APPENDS LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT DICT SETITEM SETITEMS "
    "EMPTY_SET ADDITEMS FROZENSET GLOBAL STACK_GLOBAL REDUCE BUILD NEWOBJ NEWOBJ_EX BINPERSID".split()
)

STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class StorageRef(NamedTuple):
    """A storage as the pickle names it: element type, record `data/<key>`, number of elements."""

    dtype: torch.dtype
    key: str
    numel: int


class TensorRecord(NamedTuple):
    """A view of a storage in elements. A tuple, because the pickle could rewrite the attributes of other objects."""

    storage: StorageRef
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class Stub:
    """An object of a class of `yolov6` or `torch.nn`: the attributes that the file gives it, and nothing it can do."""

    __slots__ = ("attributes",)
    class_name = ""

    def __new__(cls, *args: Any, **kwargs: Any) -> Stub:
        stub = super().__new__(cls)
        stub.attributes = {}
        return stub

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Takes whatever the pickle passes and ignores it."""

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise _Refusal(f"gives a {self.class_name} no attributes by name; save the file again with torch.save")
        self.attributes = state


@dataclass(frozen=True)
class TorchArchive:
    """What a file holds: `root` with stubs and tensor records in it, and the storages as flat tensors by key."""

    path: Path
    root: Any
    storages: dict[str, Tensor]

    def tensor(self, record: TensorRecord) -> Tensor:
        """The tensor of a record: on the CPU, stored type, sharing memory with other views of its storage.

        Raises:
            ValueError: the view reaches outside of its storage.
        """
        values = (record.offset, *record.size, *record.stride)
        last = record.offset + sum((size - 1) * stride for size, stride in zip(record.size, record.stride, strict=True))
        inside = all(0 <= value < MAX_EXTENT for value in values) and (0 in record.size or last < record.storage.numel)
        if not inside or math.prod(record.size) > record.storage.numel:
            raise ValueError(
                f"{self.path} has a tensor of size {record.size}, stride {record.stride} and offset {record.offset}, "
                f"more than its storage of {record.storage.numel} elements holds; "
                "the file is damaged or forged: download it again"
            )
        return self.storages[record.storage.key].as_strided(record.size, record.stride, record.offset)


def read_torch_archive(path: Path) -> TorchArchive:
    """Read a file of `torch.save` (the zip form that torch has written since version 1.6).

    Raises:
        ValueError: the file is absent, of another format, damaged, or asks for something that is not on the list; the
            message names the file and what was found.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not a file; give the path of a downloaded checkpoint")
    with path.open("rb") as handle, _errors_name(path):
        _check_format(handle.read(64))
        with zipfile.ZipFile(handle) as archive:
            records = _records(archive, path.stat().st_size)
            if "byteorder" in records and archive.read(records["byteorder"]) != b"little":
                raise _Refusal("was not written in little-endian byte order; save it again on an ordinary machine")
            data = archive.read(records["data.pkl"])
            _check_opcodes(data)
            unpickler = _Unpickler(BytesIO(data))
            root = unpickler.load()
            storages = {ref.key: _read_storage(archive, records, ref) for ref in unpickler.storages.values()}
    return TorchArchive(path, root, storages)


class _Refusal(ValueError):
    """Something found in the file, told without its name."""


@contextmanager
def _errors_name(path: Path) -> Iterator[None]:
    try:
        yield
    except _Refusal as error:
        raise ValueError(f"{path} {error}") from error
    except Exception as error:  # damaged zip archives and pickles raise nearly everything
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
    raise _Refusal(found)


def _records(archive: zipfile.ZipFile, file_bytes: int) -> dict[str, zipfile.ZipInfo]:
    """Records by their name inside the archive's one folder, such as `data.pkl` and `data/0`."""
    members = archive.infolist()
    folders = [item.filename[:-8] for item in members if item.filename.rpartition("/")[2] == "data.pkl"]
    if len(folders) != 1:
        raise _Refusal(f"is a zip archive with {len(folders)} data.pkl instead of one; torch.save did not write it")
    for item in members:
        if item.compress_type != zipfile.ZIP_STORED:
            raise _Refusal(f"has the compressed record {item.filename}; torch.save writes none: save it again")
    if sum(item.file_size for item in members) > file_bytes:
        raise _Refusal(f"declares records longer than its {file_bytes} bytes; it is damaged or forged: download it again")
    records = {item.filename.removeprefix(folders[0]): item for item in members}
    if records["data.pkl"].file_size > MAX_PICKLE_BYTES:
        raise _Refusal(f"has a data.pkl above {MAX_PICKLE_BYTES} bytes; no checkpoint of YOLOv6 comes near that")
    return records


def _read_storage(archive: zipfile.ZipFile, records: dict[str, zipfile.ZipInfo], ref: StorageRef) -> Tensor:
    """All elements of a storage, flat."""
    item = records.get(f"data/{ref.key}")
    if item is None:
        raise _Refusal(f"has no record data/{ref.key} for one of its tensors; download it again")
    if item.file_size != ref.numel * ref.dtype.itemsize:
        raise _Refusal(
            f"has {item.file_size} bytes in data/{ref.key}, which should hold {ref.numel} elements of {ref.dtype}; "
            "it is damaged or forged: download it again"
        )
    if ref.numel == 0:
        return torch.empty(0, dtype=ref.dtype)
    return torch.frombuffer(bytearray(archive.read(item)), dtype=ref.dtype)


def _check_opcodes(data: bytes) -> None:
    """Stop before loading if the pickle uses rare instructions, or memory far beyond its length.

    The memo of CPython's unpickler (before 3.15) is an array: one instruction with a high index takes gigabytes.
    """
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name not in OPCODES:
            raise _Refusal(f"uses the pickle instruction {opcode.name}; torch.save does not: save it again with torch")
        if opcode.name == "LONG_BINPUT" and argument > len(data):
            raise _Refusal(f"puts object {argument} aside in a pickle of {len(data)} bytes; it is damaged or forged")


class _Call:
    """A function that the file may call. A plain one would let the file set its attributes (BUILD)."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        raise _Refusal("tries to change a function; it was made to do harm: delete it")


class _OrderedDict(dict):
    """Stands for collections.OrderedDict; the attributes that torch hangs on it (`_metadata`) are not kept."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        """Ignores the attributes."""


class _NumpyType:
    """Stands for numpy.dtype: a number type by its code, such as f8."""

    __slots__ = ("code",)

    def __init__(self, code: str) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        if state[1] not in ("<", "|", "="):
            raise _Refusal("holds numpy numbers that are not little-endian; save it again on an ordinary machine")


def _numpy_type(code: Any, *_: Any) -> _NumpyType:
    if code not in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"):
        raise _Refusal(f"asks for the numpy type {code!r}; only plain numbers are read: save it again without it")
    return _NumpyType(code)


def _numpy_scalar(kind: Any, raw: Any) -> int | float | bool:
    if not isinstance(kind, _NumpyType) or not isinstance(raw, bytes) or len(raw) != int(kind.code[1:]):
        raise _Refusal("holds a numpy number whose bytes do not fit its type; download it again")
    return np.frombuffer(raw, dtype="<" + kind.code).item()


def _encode(text: Any, encoding: Any) -> bytes:
    """Bytes, as protocol 2 spells them."""
    if not isinstance(text, str) or encoding != "latin1":
        raise _Refusal(f"encodes text as {encoding!r}; only latin1 occurs in checkpoints: download it again")
    return text.encode("latin-1")


def _tensor_record(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> TensorRecord:
    fits = isinstance(storage, StorageRef) and isinstance(size, tuple) and isinstance(stride, tuple)
    if not fits or len(size) != len(stride) or not all(isinstance(value, int) for value in (offset, *size, *stride)):
        raise _Refusal("describes a tensor by something else than a storage and whole numbers; download it again")
    return TensorRecord(storage, offset, size, stride)


def _parameter(data: Any, *_: Any) -> TensorRecord:
    if not isinstance(data, TensorRecord):
        raise _Refusal("has a parameter that is no tensor; download it again")
    return data


def _allowed() -> dict[tuple[str, str], Any]:
    scalar = _Call(_numpy_scalar)
    return {
        ("torch._utils", "_rebuild_tensor_v2"): _Call(_tensor_record),
        ("torch._utils", "_rebuild_parameter"): _Call(_parameter),
        ("torch", "Size"): tuple,
        ("collections", "OrderedDict"): _OrderedDict,
        ("builtins", "set"): set,
        ("__builtin__", "set"): set,  # names of Python 2, which protocol 2 keeps
        ("_codecs", "encode"): _Call(_encode),
        ("numpy", "dtype"): _Call(_numpy_type),
        ("numpy._core.multiarray", "scalar"): scalar,
        ("numpy.core.multiarray", "scalar"): scalar,  # written with numpy 1
        **{("torch", name): dtype for name, dtype in STORAGES.items()},
    }


class _Unpickler(pickle.Unpickler):
    """The standard one with both ways out of the file closed: names and storages. `storages` are those it named."""

    def __init__(self, file: BytesIO) -> None:
        super().__init__(file)
        self.storages: dict[str, StorageRef] = {}
        self._allowed = _allowed()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self._allowed:
            return self._allowed[module, name]
        if module in ("yolov6", "torch.nn") or module.startswith(("yolov6.", "torch.nn.")):
            return type("Stub", (Stub,), {"__slots__": (), "class_name": f"{module}.{name}"})
        raise _Refusal(
            f"asks for {module}.{name}, which is no part of a YOLOv6 checkpoint; nothing of the file was run. "
            "Take the file of the official release, or save only the state_dict of the model you trust"
        )

    def persistent_load(self, pid: Any) -> StorageRef:
        match pid:
            case ("storage", torch.dtype() as dtype, str(key), str(), int(numel)) if numel >= 0:
                ref = StorageRef(dtype, key, numel)
                if self.storages.setdefault(key, ref) == ref:
                    return ref
        raise _Refusal(f"refers to the storage {pid!r:.200}, which is none or not always the same; download it again")
