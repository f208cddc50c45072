"""Files from elsewhere: stages depend on those that parameters name, and on no other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from dvc.repo import Repo

from stages.shared import paths
from tests.support.pipeline import ROOT, run_small
from yolov6core.base.yaml_text import parse_yaml

NAMED = {
    "search.scales": ("search-scales", "pretrained/scales/s.pt"),
    "train.weights": ("train-repopt", "pretrained/weights/w.pt"),
    "train.teacher": ("train-repopt", "pretrained/weights/t.safetensors"),
    "sensitivity.from_file": ("sensitivity", "pretrained/rankings/r.txt"),
    "qat.teacher": ("qat-distill", "pretrained/weights/t.safetensors"),
}
READERS = {"search-scales", "train-repopt", "sensitivity", "qat-distill"}


def sections(named: dict[str, str | None]) -> dict[str, dict[str, str | None]]:
    """`{"train.weights": path}` as sections of parameters."""
    changes: dict[str, dict[str, str | None]] = {}
    for parameter, path in named.items():
        section, _, key = parameter.partition(".")
        changes.setdefault(section, {})[key] = path
    return changes


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for _, path in NAMED.values():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(path.encode())
    return tmp_path


@pytest.fixture
def repo(folder) -> Iterator[Repo]:
    """DVC of the records and of the stages that read them, whose other inputs are left out."""
    stages = parse_yaml((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    kept = {}
    for name in ("given-files", *sorted(READERS)):
        deps = [dep for dep in stages[name]["deps"] if dep.startswith(("pretrained", "artifacts/given"))]
        kept[name] = {"cmd": f"touch {name}" if name in READERS else "true", "deps": deps, "outs": [name]}
    kept["given-files"]["outs"] = stages["given-files"]["outs"]
    (folder / "dvc.yaml").write_text(json.dumps({"stages": kept}))
    with Repo.init(no_scm=True) as dvc:
        yield dvc


def changed(repo: Repo) -> set[str]:
    """Stages that DVC would run again, behind `given-files`."""
    return set(repo.status()) - {"given-files"}


def note(repo: Repo, **changes: str | None) -> None:
    result = run_small("given-files", **sections({name: path for name, (_, path) in NAMED.items()} | changes))
    assert result.exit_code == 0, result.output
    repo.commit("given-files", force=True)


def test_a_stage_runs_again_for_the_files_that_it_reads_and_for_no_other(folder, repo):
    note(repo)
    repo.reproduce()
    assert repo.status() == {}
    for name in ("weights", "scales", "rankings"):
        (folder / "pretrained" / name / "another.pt").write_bytes(b"not named")
    assert set(repo.status()) == {"given-files"}
    note(repo)
    assert repo.status() == {}, "files that nobody names"
    for path in {path for _, path in NAMED.values()}:
        Path(path).write_bytes(b"other contents")
        note(repo)
        assert changed(repo) == {stage for stage, other in NAMED.values() if other == path}, path
        repo.reproduce()


@pytest.mark.parametrize("parameter", NAMED)
def test_a_file_that_is_missing_is_told_before_anything_is_computed(folder, parameter):
    result = run_small("given-files", **sections({parameter: "pretrained/absent.pt"}))
    assert result.exit_code == 1 and f"{parameter}: pretrained/absent.pt does not exist" in result.output
    assert not paths.GIVEN.exists()


def test_no_file_is_null_and_no_scales_are_no_file(folder):
    assert run_small("given-files", search={"scales": "none"}).exit_code == 0
    records = {path.stem: json.loads(path.read_text()) for path in paths.GIVEN.iterdir()}
    assert set(records) == READERS == set(paths.GIVEN_TO)
    assert {name for record in records.values() for name in record} == set(NAMED)
    assert {value for record in records.values() for value in record.values()} == {None}


@pytest.mark.parametrize("path, warned", [("pretrained/weights/w.pt", False), ("elsewhere.pt", True)])
def test_a_file_that_the_pipeline_does_not_watch_is_named(folder, path, warned):
    Path("elsewhere.pt").write_bytes(b"weights")
    result = run_small("given-files", train={"weights": path})
    assert result.exit_code == 0, result.output
    assert ("elsewhere.pt is outside pretrained, so 'dvc repro' does not notice" in result.output) == warned
