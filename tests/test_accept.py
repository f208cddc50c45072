"""`make accept`: what counts as the same output, and a run on a project of two toy stages."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.support import accept
from tests.support.accept import differences


def json_file(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document))


def csv_file(path: Path, text: str) -> None:
    path.write_text(text)


def tensor_file(path: Path, value: tuple[dict[str, torch.Tensor], dict[str, str]]) -> None:
    save_file(value[0], path, metadata=value[1])


def array_file(path: Path, arrays: dict[str, np.ndarray]) -> None:
    np.savez(path, **arrays)


def byte_file(path: Path, data: bytes) -> None:
    path.write_bytes(data)


A, B = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5])
META = {"meta": '{"size": [64, 96]}'}
TABLE = "variant,map50,latency_ms\nfloat,0.5,3.2\n"
WRITERS = {".json": json_file, ".csv": csv_file, ".safetensors": tensor_file, ".npz": array_file}


def compared(folder: Path, name: str, old: Any, new: Any) -> list[str]:
    write = WRITERS.get(Path(name).suffix, byte_file)
    for place, value in (("old", old), ("new", new)):
        (folder / place).mkdir()
        write(folder / place / name, value)
    return list(differences(folder / "old", folder / "new", "out"))


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("engine.json", {"call_ms": 1.2, "file": "a"}, {"call_ms": 7, "file": "a"}),
        ("q.json", {"latency_ms": 1, "latency_p90": 1, "fps": 2.0, "speedup": 3, "pre_ms": 4, "a": [1, None]}, None),
        ("table.csv", TABLE, TABLE.replace("3.2", "4.1")),
        ("rounds.csv", "a\n1\n", "b,c\n2,3\n"),
        ("summary.png", b"\x89a", b"\x89bc"),
        ("w.safetensors", ({"a": A, "b": B}, META), ({"b": B.clone(), "a": A.clone()}, META)),
        ("x.npz", {"a": np.arange(3), "text": np.array("x")}, {"text": np.array("x"), "a": np.arange(3)}),
        ("a.onnx", b"\xff\x00", b"\xff\x00"),
        ("a.txt", b"one\ntwo", b"one\ntwo"),
    ],
)
def test_what_is_the_same(tmp_path, name, old, new):
    if new is None:
        new = {key: value if key == "a" else value + 1 for key, value in old.items()}
    assert compared(tmp_path, name, old, new) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "line"),
    [
        ("a.json", {"b": {"c": [1, 2]}}, {"b": {"c": [1, 2.5]}}, "b.c[1]: 2 -> 2.5, by 0.5"),
        ("a.json", {"map": 1}, {"map": 1.0}, "map: 1 -> 1.0, by 0"),
        ("a.json", {"a": 1}, {"a": 1, "b": 2}, "b: only the new file has it"),
        ("a.json", {"a": 1, "call_ms": 1}, {"a": 1}, "call_ms: only the old file has it"),
        ("a.json", {"a": [1]}, {"a": [1, 2]}, "a: [1] -> [1, 2]"),
        ("a.json", {"a": "x"}, {"a": None}, "a: 'x' -> None"),
        ("t.csv", TABLE, TABLE.replace("0.5", "0.25"), "rows[0].map50: '0.5' -> '0.25', by 0.25"),
        ("t.csv", TABLE, TABLE + "ptq,1,1\n", "rows: "),
        ("t.csv", TABLE, TABLE.replace("map50", "map"), "columns[1]: 'map50' -> 'map'"),
        ("w.safetensors", ({"a": A}, META), ({"a": B}, META), "a: torch.float32 [2], by at most 0.5"),
        ("w.safetensors", ({"a": A}, META), ({"a": A.half()}, META), "a: torch.float32 [2] -> torch.float16 [2]"),
        ("w.safetensors", ({"a": A}, META), ({"a": A[:1]}, META), "a: torch.float32 [2] -> torch.float32 [1]"),
        ("w.safetensors", ({"a": A}, META), ({"b": A}, META), "a: only the old file has it"),
        (
            "w.safetensors",
            ({"a": A}, META),
            ({"a": A}, {"meta": '{"size": [64, 64]}'}),
            "metadata.meta.size[1]: 96 -> 64",
        ),
        ("w.safetensors", ({"a": A}, META), ({"a": A}, META | {"b": "1"}), "metadata.b: only the new file has it"),
        ("x.npz", {"a": np.arange(3)}, {"a": np.arange(1, 4)}, "a: torch.int64 [3], by at most 1"),
        ("x.npz", {"a": np.array(["x"])}, {"a": np.array(["y"])}, "a[0]: 'x' -> 'y'"),
        ("a.onnx", b"\xff\x00", b"\xff\x01", "bytes: "),
        ("a.jpg", b"\xff\x00", b"\xff\x01", "bytes: "),
        ("a.txt", b"one\ntwo", b"one\nthree", "line 2: 'two' -> 'three'"),
        ("a.txt", b"one", b"one\n", "line 2: only the new file has it"),
    ],
)
def test_what_differs_is_named_with_its_amount(tmp_path, name, old, new, line):
    found = compared(tmp_path, name, old, new)
    assert found and found[0].startswith(f"out/{name}: {line}"), found


def test_files_and_folders_that_are_there_once_are_named(tmp_path):
    for path in ("old/a/gone", "new/a/more", "old/b", "new/b/inner"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("x")
    assert list(differences(tmp_path / "old", tmp_path / "new", "out")) == [
        "out/a/gone: only the old outputs have it",
        "out/a/more: only the new outputs have it",
        "out/b: a file before, a folder now",
    ]


def test_many_differences_of_a_file_are_cut_short(tmp_path):
    found = compared(tmp_path, "a.json", {"a": list(range(20))}, {"a": list(range(1, 21))})
    assert len(found) == accept.SHOWN + 1 and found[-1] == "out/a.json: 15 more differences"


def test_only_code_may_have_changed():
    code = {"changed deps": {"stages/a.py": "modified", "yolov6core/base": "modified"}}
    assert list(accept.more_than_code([code])) == []
    data = {"changed deps": {"stages/a.py": "modified", "data": "modified", "params.yaml": {"train.lr": "modified"}}}
    assert list(accept.more_than_code([data, {"changed outs": {"out": "deleted"}}, "changed command"])) == [
        'data: "modified"',
        'params.yaml: {"train.lr": "modified"}',
        '{"changed outs": {"out": "deleted"}}',
        '"changed command"',
    ]


FIRST = """
import json, pathlib, time
import constants
out = pathlib.Path("artifacts/first")
out.mkdir(parents=True)
(out / "a.json").write_text(json.dumps({"value": constants.VALUE, "call_ms": time.time()}))
"""
SECOND = """
import json, pathlib
value = json.loads(pathlib.Path("artifacts/first/a.json").read_text())["value"]
pathlib.Path("metrics").mkdir(exist_ok=True)
pathlib.Path("metrics/second.json").write_text(json.dumps({"twice": 2 * value}))
"""
PIPELINE = """
stages:
  first:
    cmd: "PYTHON stages/first.py"
    deps: [stages]
    params: [first]
    outs: [artifacts/first]
  second:
    cmd: "PYTHON stages/second.py"
    deps: [stages/second.py, artifacts/first]
    metrics:
      - metrics/second.json: {cache: false}
"""


def dvc(*arguments: str) -> str:
    done = subprocess.run(["dvc", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose two stages have run."""
    if shutil.which("dvc") is None or shutil.which("git") is None:
        pytest.skip("dvc and git are needed")
    folder = tmp_path_factory.mktemp("accept")
    (folder / "stages").mkdir()
    (folder / "stages/first.py").write_text(FIRST)
    (folder / "stages/second.py").write_text(SECOND)
    (folder / "stages/constants.py").write_text("VALUE = 3\n")
    (folder / "params.yaml").write_text("first: 1\n")
    (folder / "dvc.yaml").write_text(PIPELINE.replace("PYTHON", sys.executable))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        subprocess.run(["git", "init", "--quiet"], check=True)
        dvc("init", "--quiet")
        dvc("repro", "--quiet")
    return folder


@pytest.fixture
def project(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    shutil.copytree(finished, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    names = ("artifacts/first/a.json", "metrics/second.json", "dvc.lock")
    return {name: (folder / name).read_bytes() for name in names}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.slow
def test_an_edit_that_changes_nothing_is_accepted(project, capsys):
    before = contents(project)
    edit(project / "stages/constants.py", "VALUE = 3", "# a comment\nVALUE = 3")
    edit(project / "stages/second.py", "2 * value", "value * 2")
    assert accept.main() == 0
    said = capsys.readouterr().out
    assert "first: all outputs are the same" in said and "second: all outputs are the same" in said
    after = contents(project)
    assert after.pop("dvc.lock") != before.pop("dvc.lock") and after == before, "old files stay, with their times"
    assert json.loads(dvc("status", "--json")) == {}
    assert not accept.ASIDE.exists()


@pytest.mark.slow
def test_an_edit_that_changes_an_output_is_refused(project, capsys):
    before = contents(project)
    edit(project / "stages/constants.py", "3", "5")
    edit(project / "stages/second.py", "2 * value", "value / 0")
    assert accept.main() == 1
    said = capsys.readouterr().out
    assert "first: artifacts/first/a.json: value: 3 -> 5, by 2" in said
    assert "second: the command ended with exit code 1" in said
    assert contents(project) == before and not accept.ASIDE.exists()


@pytest.mark.slow
def test_code_that_is_edited_meanwhile_is_not_accepted(project, capsys):
    """The first stage itself edits the code of the second one."""
    edit(project / "stages/first.py", "out = ", "pathlib.Path('stages/second.py').open('a').write('# more')\nout = ")
    before = contents(project)
    assert accept.main() == 1
    assert "the code was edited in the meantime" in capsys.readouterr().out
    assert contents(project) == before


@pytest.mark.slow
def test_other_changes_are_no_matter_of_the_code(project, capsys):
    before = contents(project)
    edit(project / "stages/second.py", "2 * value", "value * 2")
    (project / "params.yaml").write_text("first: 2\n")
    assert accept.main() == 1
    assert 'first: params.yaml: {"first": "modified"}' in capsys.readouterr().out
    assert contents(project) == before


def test_old_outputs_come_back_after_a_kill(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outs = ["artifacts/a", "metrics/b.json", "artifacts/c"]
    for out in ("artifacts/a", "artifacts/c"):
        (tmp_path / out).mkdir(parents=True)
        (tmp_path / out / "file").write_text("old")
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics/b.json").write_text("old")
    accept.put_aside(outs)
    assert not any(os.path.exists(out) for out in outs)
    (tmp_path / "artifacts/a").mkdir()
    (tmp_path / "artifacts/a/new").write_text("half")
    (accept.ASIDE / "artifacts/c").replace("artifacts/c")  # the kill came while this one had not yet been moved
    for _ in range(2):
        accept.bring_back()
        assert [(tmp_path / out / "file").read_text() for out in ("artifacts/a", "artifacts/c")] == ["old", "old"]
        assert (tmp_path / "metrics/b.json").read_text() == "old"
        assert not (tmp_path / "artifacts/a/new").exists() and not accept.ASIDE.exists()


def test_a_kill_between_two_moves_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a").write_text("old a")
    Path("b").write_text("old b")
    real = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if self.name == "b":
            raise KeyboardInterrupt
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            accept.put_aside(["a", "b"])
    assert not Path("a").exists()
    accept.bring_back()
    assert (Path("a").read_text(), Path("b").read_text()) == ("old a", "old b")
