"""A TensorRT without NVIDIA: classes made from the API of a real version, which take what that version takes.

A name, an argument, an enum member or an assignment that the real library lacks raises here, too. Results are made by
their type; `behaviours` sets the ones that matter. `touched` remembers every name that was used.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from tests.support.tensorrt_api import stored
from yolov6core.engines import tensorrt_import

PLAIN: dict[str, Any] = {"bool": True, "int": 0, "str": "", "None": None, "bytes": b""}


class FakeLibrary:
    """The module `tensorrt` of a version."""

    def __init__(self, version: str) -> None:
        table = stored()[version]
        self.__version__ = "1.7.1.116" if version == "rtx" else version
        self.touched: set[str] = set()
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.behaviours: dict[str, Callable[..., Any]] = {}
        self.values: dict[str, Any] = {}
        """'Class.property' -> its value before it is written."""
        self._members: dict[str, Any] = {}
        for name, members in table["enums"].items():
            if "." not in name:
                self._members[name] = _Members(self, name, members)
        for name, api in table["classes"].items():
            self._members[name] = _class(self, name, api)
        self._members["ILogger"].Severity = _Members(self, "ILogger.Severity", table["enums"]["ILogger.Severity"])
        for name, known in table["functions"].items():
            self._members[name] = _method(self, "", name, known)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._members:
            raise AttributeError(f"module 'tensorrt' has no attribute {name!r}")
        self.touched.add(name)
        return self._members[name]

    def asked(self, name: str) -> list[tuple[Any, ...]]:
        """Arguments of all calls of 'Class.method', or values written to 'Class.property'."""
        return [arguments for called, arguments in self.calls if called == name]

    def result(self, name: str, kind: str, instance: Any, arguments: tuple[Any, ...]) -> Any:
        """What a method gives back."""
        if name in self.behaviours:
            return self.behaviours[name](instance, *arguments)
        made = kind if kind in self._members else kind.removeprefix("I")  # 8.6 says IEngineInspector
        if made in self._members:
            return object.__new__(self._members[made]) if made != "IHostMemory" else self._members[made](b"plan")
        if kind not in PLAIN:
            raise AssertionError(f"{name} gives {kind}: a behaviour is needed")
        return PLAIN[kind]


class _Members:
    """An enum: members have a number only by `int`, as pybind11's have."""

    def __init__(self, library: FakeLibrary, name: str, members: dict[str, int]) -> None:
        kind = enum.Enum(name, members)
        kind.__int__ = lambda self: self.value  # pyright: ignore[reportAttributeAccessIssue]
        self._library, self._name, self._kind = library, name, kind

    def __getattr__(self, member: str) -> Any:
        if member.startswith("_") or member not in self._kind.__members__:
            raise AttributeError(f"type object 'tensorrt.{self._name}' has no attribute {member!r}")
        self._library.touched.add(f"{self._name}.{member}")
        return self._kind[member]


def _class(library: FakeLibrary, name: str, api: dict[str, Any]) -> type:
    """A class with the methods and properties of the table; subclasses in Python may have more."""
    own: dict[str, Any] = {member: _method(library, name, member, known) for member, known in api["methods"].items()}
    own |= {member: _property(library, name, member, kind) for member, kind in api["properties"].items()}

    def assign(self: Any, member: str, value: Any) -> None:
        if type(self).__name__ == name and member not in api["properties"]:
            raise AttributeError(f"'tensorrt.{name}' object has no attribute {member!r}")
        object.__setattr__(self, member, value)

    own["__setattr__"] = assign
    if name == "IHostMemory":
        own.pop("__init__")
        return type(name, (bytearray,), own)
    return type(name, (), own)


def _method(library: FakeLibrary, owner: str, name: str, known: list[Any]) -> Callable[..., Any]:
    full = f"{owner}.{name}" if owner else name

    def call(*arguments: Any, **named: Any) -> Any:
        instance, arguments = (arguments[0], arguments[1:]) if owner else (None, arguments)
        kind = next((kind for names, kind in known if _fits(names, len(arguments), named)), None)
        if kind is None and not (name == "__init__" and not known and type(instance).__name__ != owner):
            raise TypeError(f"{full}: arguments {arguments} {named} fit none of {known}")
        library.touched.add(full)
        library.calls.append((full, (*arguments, *named.values())))
        return library.result(full, kind or "None", instance, (*arguments, *named.values()))

    return call


def _fits(names: list[str], given: int, named: dict[str, Any]) -> bool:
    rest = names[given:]
    free = {name.rstrip("=") for name in rest}
    needed = {name for name in rest if not name.endswith("=")}
    return given <= len(names) and needed <= set(named) <= free


def _property(library: FakeLibrary, owner: str, name: str, kind: str) -> property:
    full = f"{owner}.{name}"

    def read(self: Any) -> Any:
        library.touched.add(full)
        given = self.__dict__.get(name, library.values.get(full, None if kind == "written" else _MISSING))
        if given is _MISSING:
            raise AssertionError(f"{full} is read: a value is needed")
        return given(self) if callable(given) else given

    def write(self: Any, value: Any) -> None:
        library.touched.add(full)
        library.calls.append((full, (value,)))
        self.__dict__[name] = value

    return property(read, write if kind == "written" else None)


_MISSING = object()


@contextmanager
def installed(library: FakeLibrary, flavour: str = "tensorrt") -> Iterator[FakeLibrary]:
    """Let the adapter find a fake library, with a logger and plugins of its own, and a GPU by name."""
    caches = (tensorrt_import.import_tensorrt, tensorrt_import.process_logger, tensorrt_import.load_plugins)
    module = "tensorrt" if flavour == "tensorrt" else "tensorrt_rtx_bindings"
    before = sys.modules.get(module)
    for cached in caches:
        cached.cache_clear()
    sys.modules[module] = library  # pyright: ignore[reportArgumentType]
    try:
        yield library
    finally:
        sys.modules.pop(module)
        if before is not None:
            sys.modules[module] = before
        for cached in caches:
            cached.cache_clear()


class CpuMemory:
    """Stands in for `CudaMemory`: buffers of the CPU, and a clock that counts runs."""

    handle = 7

    def __init__(self) -> None:
        self.captures = self.marks = 0

    def queue(self) -> Any:
        return nullcontext()

    def device(self, shape: Any, dtype: torch.dtype) -> torch.Tensor:
        return torch.zeros(tuple(shape), dtype=dtype)

    pinned = device

    def mark(self) -> int:
        self.marks += 1
        return self.marks

    def elapsed_ms(self, start: int, end: int) -> float:
        return float(end - start)

    def synchronize(self) -> None:
        return None

    def captured(self, call: Callable[[], None]) -> Callable[[], None]:
        self.captures += 1
        return call


def runnable(library: FakeLibrary, tensors: dict[str, tuple[str, str, tuple[int, ...]]], limits: list[tuple]) -> None:
    """Give a fake library an engine that can be run.

    Args:
        tensors: name -> ('INPUT' or 'OUTPUT', name of its type, shape with -1 for the batch).
        limits: (fewest, tuned for, most) images of each profile.
    """
    names = list(tensors)
    shapes: dict[int, dict[str, tuple[int, ...]]] = {}
    rest = next(shape[1:] for mode, _, shape in tensors.values() if mode == "INPUT")

    def shape_of(context: Any, name: str) -> tuple[int, ...]:
        shape = tensors[name][2]
        (batch,) = {given[0] for given in shapes[id(context)].values()}
        return (batch if shape[0] == -1 else shape[0], *shape[1:])

    library.values |= {
        "ICudaEngine.num_io_tensors": len(names),
        "ICudaEngine.num_optimization_profiles": len(limits),
    }
    library.behaviours |= {
        "ICudaEngine.get_tensor_name": lambda engine, index: names[index],
        "ICudaEngine.get_tensor_mode": lambda engine, name: getattr(library.TensorIOMode, tensors[name][0]),
        "ICudaEngine.get_tensor_dtype": lambda engine, name: getattr(library.DataType, tensors[name][1]),
        "ICudaEngine.get_tensor_profile_shape": lambda engine, name, index: [(n, *rest) for n in limits[index]],
        "IExecutionContext.set_input_shape": lambda context, name, shape: bool(
            shapes.setdefault(id(context), {}).update({name: shape}) is None
        ),
        "IExecutionContext.get_tensor_shape": shape_of,
    }


def small_network(library: FakeLibrary, names: list[tuple[str, str]]) -> list[Any]:
    """Give a fake library a parsed network of layers (name, kind); returns the layers.

    Each has one output, of type FLOAT.
    """
    layers = []
    for name, kind in names:
        layer = object.__new__(library.ILayer)
        output = object.__new__(library.ITensor)
        output.__dict__["dtype"] = library.DataType.FLOAT
        layer.__dict__.update(name=name, type=getattr(library.LayerType, kind), num_outputs=1, output=output)
        layers.append(layer)
    library.values["INetworkDefinition.num_layers"] = len(layers)
    library.behaviours["INetworkDefinition.get_layer"] = lambda network, index: layers[index]
    library.behaviours["ILayer.get_output"] = lambda layer, index: layer.__dict__["output"]
    return layers
