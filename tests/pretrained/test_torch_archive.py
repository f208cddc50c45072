"""Files of torch.save: tensors come back as they were saved; forged views, records and archives are refused."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch

from tests.support.forging import forge, view
from yolov6core.pretrained.torch_archive import read_torch_archive
from yolov6core.pretrained.torch_pickle import Stub, TensorRecord


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "forged.pt"


def read(path: Path, body: bytes, **kwargs):
    return read_torch_archive(forge(path, body, **kwargs))


def test_tensors_equal_what_torch_saved(path):
    torch.manual_seed(0)
    base = torch.randn(4, 6)
    saved = {
        "plain": base,
        "view": base[1:, ::2].t(),
        "half": torch.randn(3).half(),
        "brain": torch.randn(3).bfloat16(),
        "double": torch.randn(2, 1).double(),
        "whole": torch.arange(4),
        "bytes": torch.arange(4, dtype=torch.uint8),
        "switches": torch.tensor([True, False]),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "other values": [1, 2.5, None, "text", (True, {3}), b"\xff\x00", torch.Size((1, 2))],
    }
    for protocol in (2, 3, 4):
        torch.save(saved, path, pickle_protocol=protocol)
        archive = read_torch_archive(path)
        assert list(archive.root) == list(saved)
        for key, value in saved.items():
            got = archive.root[key]
            if isinstance(value, torch.Tensor):
                tensor = archive.tensor(got)
                assert tensor.dtype == value.dtype and tensor.shape == value.shape and torch.equal(tensor, value), key
            else:
                assert got == value, key


def test_numpy_numbers_become_plain_ones(path):
    np = pytest.importorskip("numpy")
    saved = [np.float64(0.1), np.float32(0.5), np.int64(-3), np.bool_(True)]
    torch.save(saved, path)
    got = read_torch_archive(path).root
    assert got == saved and [type(value) for value in got] == [float, float, int, bool]
    old = pickle.dumps(np.float64(0.1), protocol=2).replace(b"numpy._core", b"numpy.core")
    assert b"numpy.core.multiarray" in old
    assert read(path, old[2:-1]).root == 0.1


def test_modules_become_stubs_with_the_attributes(path):
    torch.save(torch.nn.Conv2d(3, 4, 1, groups=1, bias=False), path)
    archive = read_torch_archive(path)
    stub = archive.root
    assert isinstance(stub, Stub) and not isinstance(stub, torch.nn.Module)
    assert stub.class_name == "torch.nn.modules.conv.Conv2d" and stub.attributes["out_channels"] == 4
    assert isinstance(stub.attributes["_parameters"]["weight"], TensorRecord)
    assert stub.attributes["_parameters"]["bias"] is None


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (view(offset=1), "does not fit its storage of 6 elements"),
        (view(size=(3, 3)), "does not fit"),
        (view(size=(2, 3), stride=(4, 1)), "does not fit"),
        (view(size=(), stride=(), offset=6), "does not fit"),
        (view(size=(1000, 1000), stride=(0, 0)), "does not fit"),
    ],
)
def test_views_outside_of_their_storage_are_refused(path, body, message):
    archive = read(path, body)
    with pytest.raises(ValueError, match=message) as error:
        archive.tensor(archive.root)
    assert str(path) in str(error.value)


def test_the_last_element_is_still_inside(path):
    archive = read(path, view(offset=1, size=(2, 2), stride=(3, 1)))
    assert archive.tensor(archive.root).tolist() == [[1, 2], [4, 5]]


def saved_bytes() -> bytes:
    buffer = io.BytesIO()
    torch.save({"x": torch.ones(1000)}, buffer)
    return buffer.getvalue()


def legacy_bytes() -> bytes:
    buffer = io.BytesIO()
    torch.save({"x": torch.zeros(3)}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a zip archive"),
        (saved_bytes()[:-100], "truncated or damaged"),
        (saved_bytes()[:2000], "truncated or damaged"),
        (saved_bytes()[:1000] + bytes(300) + saved_bytes()[1300:], "truncated or damaged"),
        (legacy_bytes(), "bare pickle, as torch wrote before 1.6"),
        (pickle.dumps([1]), "bare pickle"),
        (struct.pack("<Q", 2) + b"{}", "safetensors"),
        (b"\n<!DOCTYPE html><html>Not found</html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "not a zip archive"),
    ],
)
def test_other_and_broken_files_are_named(path, data, message):
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as error:
        read_torch_archive(path)
    assert str(path) in str(error.value)


def test_unusual_archives_are_refused(path):
    with pytest.raises(ValueError, match="is not a file"):
        read_torch_archive(path)
    with pytest.raises(ValueError, match="compressed record 'archive/data.pkl'"):
        read(path, b"N", packing=zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="little-endian"):
        read(path, b"N", records={"byteorder": b"big"})
    with pytest.raises(ValueError, match="2 data.pkl instead of one"):
        read(path, b"N", records={"more/data.pkl": b"N."})
    assert read(path, b"N", records={"byteorder": b"little"}).root is None
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ValueError, match="0 data.pkl instead of one"):
        read_torch_archive(path)


def test_records_that_overlap_are_refused(path):
    """Several entries of the directory may point at the same bytes: a small file that unfolds into a large one."""
    zeros = bytes(100_000)
    forge(path, b"N", records={"data/0": zeros, "data/1": b""})
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        first, second = (archive.getinfo(f"archive/data/{key}") for key in "01")
    entry = data.rindex(b"archive/data/1") - 46  # the directory's entry of the second record
    data[entry + 16 : entry + 28] = struct.pack("<3I", first.CRC, len(zeros), len(zeros))
    data[entry + 42 : entry + 46] = struct.pack("<I", first.header_offset)
    path.write_bytes(data)
    assert second.header_offset > first.header_offset
    with pytest.raises(ValueError, match="declares records longer than its"):
        read_torch_archive(path)
