"""Work ends with the process that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from yolov6core.base.parent import ancestors, parent_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="ancestors are read from /proc")
WORK = """
import os, sys, time
from pathlib import Path
from yolov6core.base import parent
parent.WATCH_SECONDS = 0.05
parent.end_with_starter()
Path(sys.argv[1]).write_text(str(os.getpid()))
time.sleep(60)
"""
STARTER = """
import subprocess, sys
subprocess.run(["sh", "-c", '"$0" -c "$1" "$2"; true', sys.executable, sys.argv[1], sys.argv[2]])
"""
"""Starts the work through a shell that stays, as `dvc` does."""


def test_work_ends_though_the_shell_between_lives_on(tmp_path):
    told = tmp_path / "number"
    starter = subprocess.Popen([sys.executable, "-c", STARTER, WORK, str(told)])
    try:
        number = int(until(lambda: told.read_text() if told.exists() else ""))
        time.sleep(0.3)
        assert parent_of(number) is not None, "it works as long as its starter does"
        starter.send_signal(signal.SIGKILL)
        starter.wait()
        assert until(lambda: "ended" if is_ended(number) else "") == "ended"
    finally:
        starter.kill()


def until(answer) -> str:
    for _ in range(300):
        if found := answer():
            return found
        time.sleep(0.05)
    pytest.fail("it did not happen within 15 seconds")


def is_ended(number: int) -> bool:
    try:
        state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


def test_ancestors_begin_with_this_process():
    assert ancestors(2)[:2] == [os.getpid(), os.getppid()] and parent_of(os.getpid()) == os.getppid()
    assert parent_of(2**30) is None
