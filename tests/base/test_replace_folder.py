"""Folders are swapped whole, whoever is killed in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from yolov6core.base import atomic
from yolov6core.base.atomic import clear_leftovers, replace_folder, temporary_name, write_text
from yolov6core.base.errors import UserError

FILES = 300
WRITER = """
import os, signal, sys
from pathlib import Path
from yolov6core.base import atomic

out, what = Path(sys.argv[1]), sys.argv[2]
if what != "exchange":
    atomic._exchange = lambda a, b: False
die = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
with atomic.replace_folder(out) as folder:
    for index in range(int(sys.argv[3])):
        (folder / str(index)).write_text("new")
    if what == "inside":
        die()
    real, calls = os.replace, []
    def replace(a, b):
        real(a, b)
        calls.append(a)
        if len(calls) == 1 and what == "aside":
            die()
    os.replace = replace
    if what in ("exchange", "removal"):
        atomic.shutil.rmtree = die
"""


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("killed", "left"), [("inside", "old"), ("aside", "old"), ("exchange", "new"), ("removal", "new")]
)
def test_a_kill_leaves_one_whole_folder(tmp_path, killed, left):
    if killed == "exchange" and sys.platform != "linux":
        pytest.skip("folders are exchanged on Linux only")
    out = tmp_path / "out"
    with replace_folder(out) as folder:
        for index in range(FILES):
            (folder / str(index)).write_text("old")
    done = subprocess.run([sys.executable, "-c", WRITER, str(out), killed, str(FILES)])
    assert done.returncode == -signal.SIGKILL
    clear_leftovers(out)
    assert contents(out) == {str(index): left for index in range(FILES)}
    assert list(tmp_path.iterdir()) == [out], "nothing of the dead process is left"


def test_the_next_run_starts_from_a_whole_folder(tmp_path):
    out = tmp_path / "out"
    aside = out.with_name(".out.4194305-ab.old")  # above the largest number that Linux gives
    aside.mkdir()
    (aside / "a").write_text("old")
    with pytest.raises(RuntimeError, match="no"), replace_folder(out):
        assert contents(out) == {"a": "old"}
        raise RuntimeError("no")
    assert contents(out) == {"a": "old"}


def test_two_writers_do_not_mix(tmp_path):
    out = tmp_path / "out"
    with replace_folder(out) as first, replace_folder(out) as second:
        assert first != second
        (first / "a").write_text("1")
        (second / "b").write_text("2")
    assert contents(out) == {"a": "1"}, "the last one to end is what stands, whole"
    assert list(tmp_path.iterdir()) == [out]


def test_files_of_the_living_stay(tmp_path):
    name = temporary_name(tmp_path / "a.json")
    name.write_text("mine")
    dead = name.with_name(".a.json.4194305-ab.tmp")
    dead.write_text("of a dead process")
    other = tmp_path / ".a.json.notes-1.tmp"
    other.write_text("somebody's")
    write_text(tmp_path / "a.json", "{}")
    assert name.exists() and other.exists() and not dead.exists()


@pytest.mark.parametrize("kind", ["link", "file"])
def test_an_output_that_is_no_folder_is_refused(tmp_path, kind):
    out, target = tmp_path / "out", tmp_path / "target"
    target.mkdir()
    (target / "precious").write_text("kept")
    if kind == "link":
        os.symlink(target, out)
    else:
        out.write_text("kept")
    with pytest.raises(UserError, match="is a link or a file"), replace_folder(out):
        pass
    assert (target / "precious").read_text() == "kept" and out.exists()


def test_exchange_is_what_linux_offers(tmp_path):
    if sys.platform != "linux":
        pytest.skip("folders are exchanged on Linux only")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "x").touch()
    assert atomic._exchange(tmp_path / "a", tmp_path / "b") and (tmp_path / "b" / "x").exists()
