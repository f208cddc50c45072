"""Outputs that users name never take the place of other files."""

from __future__ import annotations

import os

import pytest

from yolov6core.base.errors import UserError
from yolov6core.base.own_files import output_folder, refuse_foreign_files, refuse_taken, write_new


def test_a_new_file_is_written_whole_and_an_equal_one_left(tmp_path) -> None:
    write_new(tmp_path / "sub" / "a.bin", b"one")
    write_new(tmp_path / "sub" / "a.bin", b"one")
    assert (tmp_path / "sub" / "a.bin").read_bytes() == b"one"
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["a.bin"]


@pytest.mark.parametrize("kind", ["file", "link", "dangling", "folder", "below"])
def test_what_is_there_stays(tmp_path, kind) -> None:
    target, real = tmp_path / "a.bin", tmp_path / "real"
    real.write_bytes(b"mine")
    if kind == "file":
        target.write_bytes(b"mine")
    elif kind == "link":
        target.symlink_to(real)
    elif kind == "dangling":
        target.symlink_to(tmp_path / "gone")
    elif kind == "folder":
        target.mkdir()
    else:
        target = real / "a.bin"
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(UserError, match="overwritten|folder"):
        write_new(target, b"new")
    assert sorted(os.listdir(tmp_path)) == before and real.read_bytes() == b"mine"


def test_an_output_that_is_its_source_is_refused_under_any_name(tmp_path) -> None:
    source = tmp_path / "a.pt"
    source.write_bytes(b"x")
    os.link(source, tmp_path / "b.pt")
    (tmp_path / "c.pt").symlink_to(source)
    for name in ("a.pt", "b.pt", "c.pt", "../" + tmp_path.name + "/a.pt"):
        with pytest.raises(UserError, match="source itself"):
            refuse_taken(tmp_path / name, sources=(source,))


def test_folders_with_other_files_are_not_replaced(tmp_path) -> None:
    folder = tmp_path / "out"
    refuse_foreign_files(folder, own=("w",))
    folder.mkdir()
    (folder / "w").write_text("x")
    refuse_foreign_files(folder, own=("w",))
    with pytest.raises(UserError, match="w, which would be lost"):
        refuse_foreign_files(folder, own=("w",), sources=(folder / "w",))
    (folder / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match=r"thesis\.txt, which would be lost"):
        refuse_foreign_files(folder, own=("w",))
    with pytest.raises(UserError, match="is a file"):
        refuse_foreign_files(folder / "thesis.txt", own=())
    with pytest.raises(UserError, match="is a file"):
        output_folder(folder / "thesis.txt" / "x")
