"""Checkpoints come back as they were, byte for byte, and foreign files are refused with a reason."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from yolov6core.base import atomic
from yolov6core.base.checkpoint import load_checkpoint, save_checkpoint

TENSORS = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor([1, 2])}
META = {"names": ["x", "y"], "image_size": [160, 160]}


def test_round_trip_and_equal_bytes(tmp_path):
    save_checkpoint(tmp_path / "one.safetensors", TENSORS, META)
    save_checkpoint(tmp_path / "sub" / "two.safetensors", dict(reversed(TENSORS.items())), dict(reversed(META.items())))
    tensors, meta = load_checkpoint(tmp_path / "one.safetensors")
    assert meta == META
    assert all(torch.equal(tensors[name], value) for name, value in TENSORS.items())
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "sub" / "two.safetensors").read_bytes()


def test_foreign_files_are_refused(tmp_path):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        load_checkpoint(broken)
    plain = tmp_path / "plain.safetensors"
    save_file({"a": torch.ones(1)}, plain)
    with pytest.raises(ValueError, match="not written by this project"):
        load_checkpoint(plain)
    newer = tmp_path / "newer.safetensors"
    save_file({"a": torch.ones(1)}, newer, {"meta": '{"format_version": 99}'})
    with pytest.raises(ValueError, match="format 99"):
        load_checkpoint(newer)


def test_a_full_disk_leaves_the_former_file(tmp_path, monkeypatch):
    path = tmp_path / "one.safetensors"
    save_checkpoint(path, TENSORS, META)
    former = path.read_bytes()
    (tmp_path / "full").symlink_to("/dev/full")
    monkeypatch.setattr(atomic, "temporary_name", lambda path: tmp_path / "full")
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, {"a": torch.zeros(9)}, META)
    assert path.read_bytes() == former and list(tmp_path.iterdir()) == [path]
