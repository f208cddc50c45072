"""Hostile pickles: everything outside of the closed list is refused, everything on it does nothing."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
import torch

from tests.support.forging import call, forge, name, number, storage, text, view
from yolov6core.pretrained.torch_archive import read_torch_archive
from yolov6core.pretrained.torch_pickle import Stub


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "forged.pt"


def read(path: Path, body: bytes, **kwargs):
    return read_torch_archive(forge(path, body, **kwargs))


EXECUTORS = {
    "os.system": call(name("os", "system"), text("touch ran")),
    "posix.system": call(name("posix", "system"), text("touch ran")),
    "builtins.eval": call(name("builtins", "eval"), text("open('ran', 'w')")),
    "builtins.getattr": call(name("builtins", "getattr"), name("torch.nn", "Linear"), text("__init__")),
    "__builtin__.exec": call(name("__builtin__", "exec"), text("open('ran', 'w')")),
    "subprocess.Popen": call(name("subprocess", "Popen"), text("touch")),
    "collections.namedtuple": call(name("collections", "namedtuple"), text("a"), text("b")),
    "collections.OrderedDict.fromkeys": call(name("collections", "OrderedDict.fromkeys"), number(1)),
    "torch.load": call(name("torch", "load"), text("other.pt")),
    "torch.hub.load": call(name("torch.hub", "load"), text("other")),
    "torch.nn.Linear": call(name("torch", "nn.Linear"), number(1), number(1)),
    "torch.storage._load_from_bytes": call(name("torch.storage", "_load_from_bytes"), text("")),
    "torch._utils._rebuild_tensor_v2.__globals__": name("torch._utils", "_rebuild_tensor_v2.__globals__"),
    "torch._dynamo.x": name("torch._dynamo", "x"),
    "torch.nnx.x": name("torch.nnx", "x"),
    "yolov6core.base.checkpoint.save_checkpoint": name("yolov6core.base.checkpoint", "save_checkpoint"),
    "yolov6x.models.Model": name("yolov6x.models", "Model"),
    "copyreg._reconstructor": name("copyreg", "_reconstructor"),
}


@pytest.mark.parametrize("asked", EXECUTORS)
def test_names_outside_of_the_list_are_refused(path, asked, monkeypatch):
    monkeypatch.chdir(path.parent)
    with pytest.raises(ValueError, match="is no part of a YOLOv6 checkpoint; nothing of it was run") as error:
        read(path, EXECUTORS[asked])
    assert str(path) in str(error.value) and repr(asked) in str(error.value)
    assert os.listdir(path.parent) == [path.name]


def test_stack_global_is_watched_as_well(path):
    dotted = b"\x8c\x02os" + b"\x8c\x06system" + b"\x93" + b"(" + text("touch ran") + b"tR"
    with pytest.raises(ValueError, match="'os.system'"):
        read(path, dotted)


@pytest.mark.parametrize(
    "body",
    [
        call(name("torch.nn.modules", "module.torch.os.system"), text("touch ran")),
        call(name("torch.nn.modules.module", "os.system"), text("touch ran")),
        call(name("torch.nn.modules", "container.__builtins__"), text("touch ran")),
        call(name("torch.nn.functional", "handle_torch_function"), text("touch ran")),
        call(name("yolov6.utils.general", "os.system"), text("touch ran")),
        name("yolov6.utils.general", "download") + b"(" + text("touch ran") + b"t\x81",
        name("yolov6.models.yolo", "Model") + b")\x81}" + text("__class__") + name("torch.nn", "x") + b"sb",
    ],
)
def test_admitted_names_do_nothing(path, body, monkeypatch):
    """Dotted paths through `torch.nn` reach `os`; here they only name a stub, called or built with anything."""
    monkeypatch.chdir(path.parent)
    stub = read(path, body).root
    assert isinstance(stub, Stub) and not isinstance(stub, torch.nn.Module)
    assert os.listdir(path.parent) == [path.name]


def test_a_stub_is_not_callable(path):
    stub = call(name("torch.nn", "Linear"))
    with pytest.raises(ValueError, match="'Stub' object is not callable"):
        read(path, call(stub, text("touch ran")))


ONE = b"}" + text("x") + number(1) + b"s"  # {"x": 1}
STATES = {"attributes": ONE, "slots": b"N" + ONE + b"\x86", "both": ONE + ONE + b"\x86"}
TARGETS = {
    "function": name("torch._utils", "_rebuild_tensor_v2"),
    "maker of bytes": name("_codecs", "encode"),
    "maker of numpy types": name("numpy", "dtype"),
    "stub class": name("torch.nn", "Linear"),
    "dictionary class": name("collections", "OrderedDict"),
    "tuple": name("torch", "Size"),
    "set class": name("builtins", "set"),
    "set": call(name("builtins", "set")),
    "type of numbers": name("torch", "FloatStorage"),
    "storage": storage(),
    "tensor": view(),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("target", TARGETS)
def test_the_file_can_change_nothing_that_it_was_given(path, target, state):
    with pytest.raises(ValueError, match="tries to change a function|damaged"):
        read(path, TARGETS[target] + STATES[state] + b"b")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (view(offset=-1), "small whole numbers"),
        (view(size=(-2, -3)), "small whole numbers"),
        (view(stride=(3, -1)), "small whole numbers"),
        (view(size=(2**40, 0)), "small whole numbers"),
        (view(size=(2, 3, 1)), "small whole numbers"),
        (view(of=text("0")), "something else than a storage"),
        (view(storage(numel=-6)), "storage in an unknown form"),
        (view(storage(numel=2**62)), "storage in an unknown form"),
        (view(storage(numel=7)), "24 bytes in 'archive/data/0', which should hold 7 elements of torch.float32"),
        (view(storage(numel=5)), "should hold 5 elements"),
        (view(storage("DoubleStorage")), "should hold 6 elements of torch.float64"),
        (view(storage(key="1")), "lacks the record 'data/1'"),
        (view(storage(key="../../secret")), r"lacks the record 'data/\.\./\.\./secret'"),
        (view() + view(storage("IntStorage")) + b"\x86", "describes the storage '0' in two ways"),
        (view(storage("QInt8Storage")), "'torch.QInt8Storage'"),
        (text("0") + b"Q", "storage in an unknown form"),
        (call(name("torch._utils", "_rebuild_parameter"), number(1), b"\x89", b"}"), "parameter that is no tensor"),
        (call(name("numpy", "dtype"), text("O8"), b"\x89", b"\x88"), "numpy type 'O8'"),
        (call(name("numpy", "dtype"), b"(tttt"), "damaged"),
        (call(name("numpy", "dtype"), b")"), "numpy type of type tuple"),
        (call(name("numpy", "dtype"), text("f8")) + b"(" + number(3) + text(">") + b"tb", "not little-endian"),
        (call(name("numpy._core.multiarray", "scalar"), call(name("numpy", "dtype"), text("f8")), b"N"), "do not fit"),
        (call(name("numpy.core.multiarray", "scalar"), text("f8"), text("")), "do not fit its type"),
        (call(name("_codecs", "encode"), text("x"), text("rot13")), "encodes text as 'rot13'"),
        (call(name("torch.nn", "Linear")) + STATES["slots"] + b"b", "'torch.nn.Linear' without a table of attributes"),
        (b"N" + b"r" + struct.pack("<I", 2**31 - 1), "keeps an object under index 2147483647"),
        (b"\x82\x01", "instruction EXT1"),
        (b"(ios\nsystem\n", "instruction INST"),
        (b"P0\n", "instruction PERSID"),
        (text("cut")[:-1], "truncated or damaged"),
        (b"0", "truncated or damaged"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value,
)
def test_forged_contents_are_refused(path, body, message):
    with pytest.raises(ValueError, match=message) as error:
        read(path, body)
    assert str(path) in str(error.value)


def doubled(times: int = 60) -> bytes:
    """A tuple that holds the same tuple twice, and so on."""
    return b")" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(times))


@pytest.mark.parametrize(
    "body",
    [
        b"}" + doubled() + b"Ns",
        b"}(" + doubled() + b"Nu",
        call(name("collections", "OrderedDict"), b"]" + doubled() + b"N\x86a"),
        call(name("builtins", "set"), b"](" + doubled() + b"e"),
        b"\x8f(" + doubled() + b"\x90",
        b"(" + doubled() + b"\x91",
    ],
)
def test_keys_that_take_for_ever_to_hash_are_refused(path, body):
    with pytest.raises(ValueError, match="key of type tuple"):
        read(path, body)


def test_tensors_of_endless_dimensions_are_refused(path):
    with pytest.raises(ValueError, match="describes a tensor"):
        read(path, view(size=(1,) * 50, stride=(1,) * 50))
