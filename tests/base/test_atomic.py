"""Files and folders come out whole or stay as they were, and a full disk is named."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from yolov6core.base import atomic
from yolov6core.base.atomic import replace_folder, write_text
from yolov6core.base.errors import UserError


def test_a_full_disk_is_named_and_the_former_file_kept(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    write_text(path, "former")
    (tmp_path / "full").symlink_to("/dev/full")
    monkeypatch.setattr(atomic, "temporary_name", lambda path: tmp_path / "full")
    with pytest.raises(UserError, match=r"metrics.json could not be written \(No space left .* Make room"):
        write_text(path, "new")
    assert path.read_text() == "former" and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_named_and_the_former_folder_kept(tmp_path):
    out = tmp_path / "out"
    with replace_folder(out) as folder:
        (folder / "a").write_text("former")
    with pytest.raises(UserError, match="out could not be written"), replace_folder(out) as folder:
        (folder / "b").write_text("new")
        with open("/dev/full", "w") as file:
            file.write("new")
    assert [path.read_text() for path in tmp_path.rglob("*") if path.is_file()] == ["former"]


def test_a_library_that_found_no_room_is_understood(tmp_path, monkeypatch):
    def build() -> None:
        with replace_folder(tmp_path / "out") as folder:
            (folder / "model.bin").write_bytes(b"begun")
            raise RuntimeError("basic_ios::clear: iostream error")

    with pytest.raises(RuntimeError, match="iostream"):
        build()
    left = SimpleNamespace(free=4096)
    monkeypatch.setattr("yolov6core.base.atomic.shutil.disk_usage", lambda path: left if Path(path).is_dir() else None)
    with pytest.raises(UserError, match="out could not be written \\(No space left"):
        build()
    assert not list(tmp_path.iterdir())
