"""How threads wait: settled by the cores that are idle, by the user where he said it, and before torch is loaded."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from tests.support.pipeline import ROOT
from yolov6core.base import waiting
from yolov6core.base.waiting import OWN_SETTINGS, SPIN_COUNT, busy_cores, settle_waiting

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="libgomp is what torch uses on Linux")
FOUR = frozenset({0, 1, 2, 3})


@pytest.fixture(autouse=True)
def untouched(monkeypatch) -> None:
    """As at the start of a command on four cores: torch is not loaded, and the user has settled nothing."""
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: FOUR)
    for name in OWN_SETTINGS:  # set first, so that what a test sets is taken back as well
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("busy", "threads", "chosen"),
    [(0.0, 0, "spin"), (0.4, 0, "spin"), (0.6, 0, "yield"), (1.0, 4, "yield"), (1.0, 3, "spin"), (2.2, 2, "spin")]
    + [(2.6, 2, "yield"), (4.0, 1, "yield"), (0.0, 64, "spin"), (None, 1, "yield")],
)
def test_threads_spin_where_each_has_an_idle_core(busy, threads, chosen) -> None:
    line = settle_waiting("auto", threads=threads, busy=lambda: busy)
    assert line is not None and line.startswith(f"waiting threads {chosen} (")
    assert ("unknown" if busy is None else f"{busy:.1f} of 4 cores are busy") in line
    assert os.environ.get(SPIN_COUNT) == ("1000" if chosen == "yield" else None)
    fewer = {0.6: 3, 1.0: 3, 2.6: None}.get(busy or 0) if chosen == "yield" else None
    assert (f"runtime.threads={fewer} is likely faster" in line) == (fewer is not None)


@pytest.mark.parametrize(("asked", "count"), [("spin", None), ("yield", "1000")])
def test_what_is_asked_for_needs_no_look(asked, count) -> None:
    def never() -> float:
        raise AssertionError("nobody asked")

    assert settle_waiting(asked, threads=2, busy=never) == f"waiting threads {asked} (runtime.waiting)"
    assert os.environ.get(SPIN_COUNT) == count


@pytest.mark.parametrize(("name", "value"), [("GOMP_SPINCOUNT", "20000"), ("OMP_WAIT_POLICY", "ACTIVE")])
def test_a_users_own_setting_wins(monkeypatch, name, value) -> None:
    monkeypatch.setenv(name, value)
    assert settle_waiting("yield", threads=2) == f"waiting threads do as {name}={value} says"
    assert {key: os.environ[key] for key in OWN_SETTINGS if key in os.environ} == {name: value}


def test_nothing_is_settled_once_torch_is_there(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", object())
    assert settle_waiting("yield", threads=2) is None and SPIN_COUNT not in os.environ


def test_a_busy_core_is_seen(monkeypatch, tmp_path) -> None:
    before = "cpu  0 0 0 0\ncpu0 100 0 0 900 0 0 0 0 0 0\ncpu1 0 0 0 500 500 0 0 0 0 0\ncpu7 0 0 0 0 0 0 0 0 0 0\n"
    after = "cpu  0 0 0 0\ncpu0 115 2 3 900 0 0 0 0 0 0\ncpu1 5 0 0 510 505 0 0 0 9 9\ncpu7 99 0 0 0 0 0 0 0 0 0\n"
    statistics = tmp_path / "stat"
    statistics.write_text(before)
    monkeypatch.setattr(waiting, "STATISTICS", statistics)
    monkeypatch.setattr(time, "sleep", lambda seconds: statistics.write_text(after))
    assert busy_cores() == pytest.approx(1.0 + 0.25), "of the cores that this process may use"


@pytest.mark.parametrize("text", ["", "cpu0 1 1 1 1 1 1 1 1\n", "no numbers\n"])
def test_a_kernel_that_says_nothing_is_answered_with_unknown(monkeypatch, tmp_path, text) -> None:
    (tmp_path / "stat").write_text(text)
    monkeypatch.setattr(waiting, "STATISTICS", tmp_path / "stat")
    assert busy_cores(0.0) is None
    monkeypatch.setattr(waiting, "STATISTICS", tmp_path / "absent")
    assert busy_cores(0.0) is None


TRAIN = """
import sys
from yolov6core.base.waiting import settle_waiting
assert "torch" not in sys.modules
settle_waiting(sys.argv[1], threads=2)
import hashlib
import torch
torch.set_num_threads(2)
torch.manual_seed(0)
layers = torch.nn.Conv2d(3, 32, 3), torch.nn.BatchNorm2d(32), torch.nn.ReLU(), torch.nn.Conv2d(32, 32, 3)
net = torch.nn.Sequential(*layers)
step = torch.optim.SGD(net.parameters(), lr=0.1)
for _ in range(3):
    step.zero_grad()
    net(torch.rand(8, 3, 40, 40)).square().mean().backward()
    step.step()
print(hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in net.state_dict().values())).hexdigest())
"""


@pytest.mark.slow
def test_libgomp_takes_it_and_no_byte_changes() -> None:
    env = {name: value for name, value in os.environ.items() if name not in OWN_SETTINGS}
    env |= {"OMP_DISPLAY_ENV": "VERBOSE", "PYTHONPATH": str(ROOT)}
    runs = {
        asked: subprocess.run([sys.executable, "-c", TRAIN, asked], env=env, capture_output=True, text=True, check=True)
        for asked in ("spin", "yield")
    }
    assert runs["spin"].stdout == runs["yield"].stdout
    counts = {asked: [row for row in run.stderr.splitlines() if SPIN_COUNT in row] for asked, run in runs.items()}
    assert "'1000'" in counts["yield"][0] and "'1000'" not in counts["spin"][0]
