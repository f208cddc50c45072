"""Names of runs change with what the runs depend on."""

from __future__ import annotations

from yolov6core.base.code_version import fingerprint


def test_fingerprint_sees_parts_files_and_code(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_text("1")
    first = fingerprint({"lr": 1}, files=(path,))
    assert first == fingerprint({"lr": 1}, files=(path,))
    assert first != fingerprint({"lr": 2}, files=(path,))
    path.write_text("2")
    assert first != fingerprint({"lr": 1}, files=(path,))
    path.write_text("1")
    monkeypatch.setattr("yolov6core.base.code_version.source_digests", lambda: {"stages/a.py": "0"})
    assert first != fingerprint({"lr": 1}, files=(path,))
