"""What a run of `infer` may replace: outputs of earlier runs, whole or killed, and nothing else."""

from __future__ import annotations

import pytest

from yolov6core.base.errors import UserError
from yolov6core.serving.results_folder import ResultsFolder


def killed_run(folder, **files: bytes) -> None:
    """A run that wrote these files and had no time to finish."""
    results = ResultsFolder(folder, files)
    for name, data in files.items():
        results.write(name, data)


def test_the_run_after_a_killed_one_replaces_its_files(tmp_path):
    killed_run(tmp_path, a=b"1", b=b"2")
    results = ResultsFolder(tmp_path, ["a"])
    results.write("a", b"3")
    results.finish({}, "table")
    assert (tmp_path / "a").read_bytes() == b"3" and (tmp_path / "b").read_bytes() == b"2"
    assert not list(tmp_path.glob(".*"))
    ResultsFolder(tmp_path, ["a", "b"]).finish({}, "table")


def test_a_run_killed_before_it_replaced_a_file_leaves_that_of_the_run_before(tmp_path, monkeypatch):
    results = ResultsFolder(tmp_path, ["a"])
    results.write("a", b"1")
    results.finish({}, "table")
    with monkeypatch.context() as patch:
        patch.setattr("yolov6core.serving.results_folder.os.replace", lambda *paths: None)
        killed_run(tmp_path, a=b"2")
    assert (tmp_path / "a").read_bytes() == b"1"
    ResultsFolder(tmp_path, ["a"])


def test_a_file_changed_after_a_killed_run_is_somebody_elses(tmp_path):
    killed_run(tmp_path, a=b"1")
    (tmp_path / "a").write_bytes(b"mine")
    with pytest.raises(UserError, match="a is there, is not as an earlier run"):
        ResultsFolder(tmp_path, ["a"])
