"""Locks between processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from yolov6core.base.errors import UserError
from yolov6core.base.locks import held_alone

HOLDER = """
import sys, time
from pathlib import Path
from yolov6core.base.locks import held_alone
with held_alone(Path(sys.argv[1]), doing="it"):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def holder(path, seconds: float) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_another_holder_is_named_and_a_dead_one_is_none(tmp_path):
    path = tmp_path / "some" / "lock"
    process = holder(path, 60)
    try:
        with pytest.raises(UserError, match=rf"process {process.pid} is already at it"), held_alone(path, doing="it"):
            pass
    finally:
        process.kill()
        process.wait()
    with held_alone(path, doing="it"):
        assert path.read_text() == str(os.getpid())


def test_a_holder_that_ends_is_waited_for(tmp_path):
    process, started = holder(tmp_path / "lock", 0.5), time.monotonic()
    with held_alone(tmp_path / "lock", doing="it", wait_seconds=30):
        assert time.monotonic() - started < 20
    assert process.wait() == 0


def test_a_lock_is_released_by_an_error(tmp_path):
    with pytest.raises(KeyError), held_alone(tmp_path / "lock", doing="it"):
        raise KeyError
    with held_alone(tmp_path / "lock", doing="it"):
        pass
