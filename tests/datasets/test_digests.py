"""Changed pixels change the prepared dataset."""

from __future__ import annotations

import hashlib

from yolov6core.datasets.digests import digest_of, write_digests


def test_digests_are_of_the_contents(tmp_path):
    names = []
    for index, size in enumerate((0, 10, 3 * 2**20 + 1)):
        path = tmp_path / f"{index} b.jpg"
        path.write_bytes(bytes([index]) * size)
        names.append(str(path))
        assert digest_of(str(path)) == (hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest(), size)
    write_digests(tmp_path / "digests.txt", [*reversed(names), names[0]])
    lines = (tmp_path / "digests.txt").read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == names
    (tmp_path / "1 b.jpg").write_bytes(b"0123456789")
    write_digests(tmp_path / "digests.txt", names)
    changed = (tmp_path / "digests.txt").read_text().splitlines()
    assert [a == b for a, b in zip(lines, changed, strict=True)] == [True, False, True]
