"""The pickle inside a file of `torch.save`, read with a closed list of allowed names.

A pickle can call any function of the machine that opens it. Here:

- tensors become descriptions (`TensorRecord`), because a real tensor would obey further instructions of the pickle;
- objects of `yolov6` and `torch.nn` classes become a `Stub` that keeps their attributes; no name is imported;
- all other names are refused.
"""

from __future__ import annotations

import pickle
import pickletools
from collections.abc import Callable
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
import torch

MAX_EXTENT = 2**31  # larger sizes, strides and offsets do not occur and would overflow inside torch
MAX_DIMS = 16  # convolutions have four

# Instructions of protocols 2 to 4, without the extension registry and without buffers outside of the pickle.
OPCODES = """
    PROTO FRAME STOP MARK POP POP_MARK BINGET LONG_BINGET BINPUT LONG_BINPUT MEMOIZE
    NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT
    BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8
    EMPTY_LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT SETITEM SETITEMS
    EMPTY_SET ADDITEMS FROZENSET GLOBAL STACK_GLOBAL REDUCE BUILD NEWOBJ NEWOBJ_EX BINPERSID
"""

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
PLAIN = (str, bytes, int, float, type(None), torch.dtype)
"""Types of keys, and of the elements of a tuple that is one."""
NUMPY_TYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")


class Refusal(ValueError):
    """A file has content that is not accepted; the caller puts the name of the file before the message."""


class StorageRef(NamedTuple):
    """A storage as the pickle names it: element type, record `data/<key>`, number of elements."""

    dtype: torch.dtype
    key: str
    numel: int


class TensorRecord(NamedTuple):
    """A view of a storage, in elements, not yet checked against its length.

    A tuple, because the pickle can rewrite the attributes of other objects.
    """

    storage: StorageRef
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class Stub:
    """An object of a class of `yolov6` or `torch.nn`: it has the attributes in the file, but no methods."""

    __slots__ = ("attributes",)
    class_name = ""

    def __new__(cls, *args: Any, **kwargs: Any) -> Stub:
        stub = super().__new__(cls)
        stub.attributes = {}
        return stub

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Ignores all arguments of the pickle."""

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise Refusal(f"has a {self.class_name!r} without a table of attributes; save it again with torch.save")
        self.attributes = state


def read_pickle(data: bytes) -> tuple[Any, list[StorageRef]]:
    """The object in a pickle, made of plain Python values, stubs and tensor records, and its storages.

    Raises:
        Refusal: the pickle asks for a name or instruction that is not on the list.
        Exception: of nearly any type, if the pickle is damaged.
    """
    _check_opcodes(data)
    unpickler = _Unpickler(BytesIO(data))
    return unpickler.load(), list(unpickler.storages.values())


def _check_opcodes(data: bytes) -> None:
    """Refuse instructions that torch does not write, and indices that take unbounded memory, before loading.

    The memo of CPython's unpickler (before 3.15) is an array: one instruction with a high index takes gigabytes.
    """
    written = set(OPCODES.split())
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name not in written:
            raise Refusal(f"uses the pickle instruction {opcode.name}; torch.save does not: save it again with torch")
        if opcode.name == "LONG_BINPUT" and isinstance(argument, int) and argument > len(data):
            raise Refusal(f"keeps an object under index {argument} in a pickle of {len(data)} bytes; it is forged")


class _Call:
    """A function that the file may call. The file could set attributes of a plain function."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        raise Refusal("tries to change a function; it was made to do harm: delete it")


class _OrderedDict(dict):
    """Stands for collections.OrderedDict; attributes that torch adds to it (`_metadata`) are not kept."""

    __slots__ = ()

    def __init__(self, pairs: Any = ()) -> None:
        pairs = list(pairs.items() if isinstance(pairs, dict) else pairs)
        for pair in pairs:
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise Refusal("makes a table of something else than pairs; it is damaged or forged: download it again")
            _check_key(pair[0])
        super().__init__(pairs)

    def __setstate__(self, state: Any) -> None:
        """Ignores the attributes."""


def _set(items: Any = ()) -> set[Any]:
    items = list(items)
    for item in items:
        _check_key(item)
    return set(items)


def _check_key(key: Any) -> None:
    """Refuse keys of tables and members of sets that are not plain.

    The hash of a tuple visits every element: a tuple that holds another one twice, forty times over, takes for ever.
    """
    if isinstance(key, tuple) and not isinstance(key, StorageRef | TensorRecord) and len(key) <= MAX_DIMS:
        plain = all(isinstance(item, PLAIN) for item in key)
    else:
        plain = isinstance(key, PLAIN)
    if not plain:
        raise Refusal(f"has a table with a key of type {type(key).__name__}; it is forged: delete it")


class _NumpyType:
    """Stands for numpy.dtype: a plain number type by its code, such as f8."""

    __slots__ = ("code",)

    def __init__(self, code: Any) -> None:
        if not isinstance(code, str) or code not in NUMPY_TYPES:
            raise Refusal(f"asks for the numpy type {_brief(code)}; only plain numbers are read: save it without that")
        self.code = code

    def __setstate__(self, state: Any) -> None:
        if state[1] not in ("<", "|", "="):
            raise Refusal("has numpy numbers that are not little-endian; save it again on an ordinary machine")


def _numpy_scalar(kind: Any, raw: Any) -> int | float | bool:
    if not isinstance(kind, _NumpyType) or not isinstance(raw, bytes) or len(raw) != int(kind.code[1:]):
        raise Refusal("has a numpy number whose bytes do not fit its type; download it again")
    return np.frombuffer(raw, dtype=f"<{kind.code}").item()


def _encode(text: Any, encoding: Any) -> bytes:
    """Bytes in the form of protocol 2."""
    if not isinstance(text, str) or encoding != "latin1":
        raise Refusal(f"encodes text as {_brief(encoding)}; only latin1 occurs in checkpoints: download it again")
    return text.encode("latin-1")


def _tensor_record(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> TensorRecord:
    if isinstance(storage, StorageRef) and isinstance(size, tuple) and isinstance(stride, tuple):
        values = (offset, *size, *stride)
        if len(size) == len(stride) <= MAX_DIMS and all(isinstance(n, int) and 0 <= n < MAX_EXTENT for n in values):
            return TensorRecord(storage, offset, size, stride)
    raise Refusal(
        "describes a tensor by something else than a storage and small whole numbers; "
        "it is damaged or forged: download it again"
    )


def _parameter(data: Any, *_: Any) -> TensorRecord:
    if not isinstance(data, TensorRecord):
        raise Refusal("has a parameter that is no tensor; it is damaged or forged: download it again")
    return data


def _brief(value: Any) -> str:
    """A short text for a text, the type for other values: a hostile pickle can nest values too long to print."""
    return repr(value[:100]) if isinstance(value, str) else f"of type {type(value).__name__}"


def _allowed() -> dict[tuple[str, str], Any]:
    """All names that a file may use. The objects are new for each file, so no file can change them for the next."""
    scalar = _Call(_numpy_scalar)
    return {
        ("torch._utils", "_rebuild_tensor_v2"): _Call(_tensor_record),
        ("torch._utils", "_rebuild_parameter"): _Call(_parameter),
        ("torch", "Size"): tuple,
        ("collections", "OrderedDict"): _OrderedDict,
        ("builtins", "set"): _Call(_set),
        ("__builtin__", "set"): _Call(_set),  # the name in Python 2, which protocol 2 keeps
        ("_codecs", "encode"): _Call(_encode),
        ("numpy", "dtype"): _Call(lambda code, *_: _NumpyType(code)),
        ("numpy._core.multiarray", "scalar"): scalar,
        ("numpy.core.multiarray", "scalar"): scalar,  # written with numpy 1
        **{("torch", name): dtype for name, dtype in STORAGES.items()},
    }


# The unpickler in Python: the one in C would take any key before anybody could look at it.
_Base: Any = pickle._Unpickler  # pyright: ignore[reportAttributeAccessIssue]


class _Unpickler(_Base):
    """The standard unpickler, with names, storages and keys limited; `storages` are the ones it met, by key."""

    dispatch = dict(_Base.dispatch)

    def __init__(self, file: BytesIO) -> None:
        super().__init__(file)
        self.storages: dict[str, StorageRef] = {}
        self._allowed = _allowed()

    def load_setitem(self) -> None:
        """One entry of a table: key and value are on the stack."""
        _check_key(self.stack[-2])
        super().load_setitem()

    def load_setitems(self) -> None:
        """Entries of a table: keys and values lie on the stack behind the mark."""
        for key in self.stack[::2]:
            _check_key(key)
        super().load_setitems()

    def load_members(self) -> None:
        """Members of a set lie on the stack behind the mark."""
        for member in self.stack:
            _check_key(member)

    def load_additems(self) -> None:
        """Members into a set."""
        self.load_members()
        super().load_additems()

    def load_frozenset(self) -> None:
        """A set of members."""
        self.load_members()
        super().load_frozenset()

    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.ADDITEMS[0]] = load_additems
    dispatch[pickle.FROZENSET[0]] = load_frozenset

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self._allowed:
            return self._allowed[module, name]
        if module == "torch.nn" or module.startswith(("yolov6.", "torch.nn.")):
            return type("Stub", (Stub,), {"__slots__": (), "class_name": f"{module}.{name}"})
        raise Refusal(
            f"asks for {_brief(f'{module}.{name}')}, which is no part of a YOLOv6 checkpoint; nothing of it was run. "
            "Take the file of the official release, or save only the state_dict() of a model you trust"
        )

    def persistent_load(self, pid: Any) -> StorageRef:
        match pid:
            case ("storage", torch.dtype() as dtype, str(key), str(), int(numel)) if 0 <= numel < MAX_EXTENT:
                ref = StorageRef(dtype, key, numel)
                if self.storages.setdefault(key, ref) == ref:
                    return ref
                raise Refusal(f"describes the storage {_brief(key)} in two ways; it is forged: delete it")
        raise Refusal("refers to a storage in an unknown form; save it again with torch.save")
