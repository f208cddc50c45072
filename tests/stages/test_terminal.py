"""What stands on a terminal while a stage runs and after it, and what a pipe gets."""

from __future__ import annotations

import errno
import io
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stages.shared import bars
from tests.support.pipeline import ROOT, run_small, small_project
from tests.support.terminal import run_on_terminal, screen, start_on_terminal
from yolov6core.base.progress import tracked

WORK = """
import os, sys, time, typer
from stages.shared import bars
from stages.shared.shell import errors_as_exit_codes
from yolov6core.base.errors import UserError, logger
from yolov6core.base.progress import tracked, working

bars.PATIENCE_SECONDS, bars.REFRESH_SECONDS = 0.02, 0.01
app = typer.Typer(pretty_exceptions_enable=False)

def inner():
    for number in tracked(range(20), "inner work"):
        time.sleep({sleep})
        yield number

@app.command()
def main():
    with errors_as_exit_codes():
        logger.info("begin")
        for item in tracked([1, 2], "outer work", unit="parts"):
            for number in inner():
                if number == 15:
                    {middle}
        with working("losses", total=100) as bar:
            for step in range(6):
                time.sleep({sleep})
                bar.reach(16 * step, {{"class": 1.25, "iou": 0.5, "total": 2.5}})
        logger.info("end")
    print("rich" in sys.modules)

app()
"""
COLOUR = re.compile(r"\x1b\[(?:[0-9;]*;)?(?:3[0-8]|4[0-8]|9[0-7])(?:;[0-9;]*)?m")
SEQUENCE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
ENV = {"PYTHONPATH": str(ROOT)}


def command(middle: str = "pass", *, sleep: float = 0.02) -> list[str]:
    """A command that works for a second; `middle` is run twice, deep inside."""
    return [sys.executable, "-c", WORK.format(middle=middle, sleep=sleep)]


def frames(text: str) -> list[str]:
    """What was written between two returns to the start of a line, without control sequences."""
    return [SEQUENCE.sub("", frame) for frame in re.split(r"[\r\n]+", text)]


def test_bars_are_drawn_and_leave_only_the_log():
    line = "a line of the log " + "x" * 200
    text, code, out = run_on_terminal(command(f"logger.info({line!r})"), env=ENV)
    assert code == 0 and out == b"True\n" and COLOUR.search(text)
    drawn = frames(text)
    assert any(re.search(r"inner work .*/20 images  [\d.]+ images/s", frame) for frame in drawn), text
    assert any("outer work" in frame and frame.rstrip().endswith("0/2 parts") for frame in drawn)
    assert any(re.search(r"losses .*left .*/100 images .*class 1.25  iou 0.5  total 2.5", frame) for frame in drawn)
    left = screen(text)
    assert left[0] == "begin" and left[-2:] == ["end", ""] and "".join(left[1:-2]) == 2 * line


def test_the_log_stays_in_order_with_what_others_write():
    text, _, _ = run_on_terminal(command("logger.info('first'); sys.stderr.write('second\\n')"), env=ENV)
    assert screen(text) == ["begin", "first", "second", "first", "second", "end", ""]


def test_a_pipe_gets_lines_and_no_control_sequence():
    done = subprocess.run(
        command("logger.info('middle')"), env=os.environ | ENV | {"FORCE_COLOR": "1"}, capture_output=True, text=True
    )
    assert done.stderr == "begin\nmiddle\nmiddle\nend\n" and done.stdout == "False\n"


@pytest.mark.parametrize(
    ("env", "drawn"), [({"NO_COLOR": "1"}, True), ({"TERM": "dumb"}, False), ({"RANK": "1"}, False)]
)
def test_the_environment_decides(env, drawn):
    text, code, out = run_on_terminal(command(), env=ENV | env)
    assert code == 0 and not COLOUR.search(text)
    assert ("inner work" in text) == drawn and out.decode().strip() == str(drawn), "rich is loaded where it draws"
    assert screen(text) == ["begin", "end", ""]


@pytest.mark.parametrize(("columns", "env"), [(30, {}), (80, {}), (120, {"COLUMNS": "50"})])
def test_bars_fit_the_terminal(columns, env):
    text, code, _ = run_on_terminal(command(), columns=columns, env=ENV | env)
    width = int(env.get("COLUMNS", columns))
    drawn = [frame for frame in frames(text) if frame.startswith("losses")]
    assert code == 0 and drawn and max(map(len, drawn)) <= width
    assert all(re.search(r"\d:\d\d:\d\d l" if width > 30 else r"\d%", frame) for frame in drawn[1:]), drawn
    assert any("total 2.5" in frame for frame in drawn) == (width >= 80), "losses where there is room"
    assert screen(text, columns) == ["begin", "end", ""]


@pytest.mark.parametrize(
    ("middle", "code", "last"),
    [
        ("raise UserError('the disk is red')", 1, "error: the disk is red"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero"),
        ("raise KeyboardInterrupt", 130, "stopped at once; outputs are as they were"),
    ],
)
def test_errors_leave_the_terminal_without_bars(middle, code, last):
    text, found, _ = run_on_terminal(command(middle), env=ENV)
    assert found == code
    left = screen(text)
    assert (
        left[0] == "begin" and left[-2:] == [last, ""] and not any("work" in line for line in left if "in " not in line)
    )
    assert "\x1b[?25l" not in text, "the cursor is never hidden"


def test_ctrl_c_is_answered_in_the_middle_of_a_bar():
    started = start_on_terminal(command(), env=ENV)
    started.wait_for("inner work")
    started.process.send_signal(signal.SIGINT)
    assert started.process.wait(60) == 130
    started.wait_for_end()
    assert screen(started.text()) == ["begin", "stopped at once; outputs are as they were", ""]


class Closed(io.StringIO):
    """A terminal whose window is closed after the first drawing."""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if "work" in self.getvalue():
            raise OSError(errno.EIO, "Input/output error")
        return super().write(text)


def test_work_goes_on_when_the_terminal_has_gone(monkeypatch):
    monkeypatch.setattr(bars, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(bars, "REFRESH_SECONDS", 0.0)
    stream, before = Closed(), sys.stderr
    with bars.bars_on(stream):
        assert list(tracked(range(5), "work")) == list(range(5))
    assert "work" in stream.getvalue() and sys.stderr is before


def test_a_forked_process_writes_plain_lines():
    fork = "(child := os.fork()) or (logger.info('child'), os._exit(0)); os.waitpid(child, 0)"
    text, code, _ = run_on_terminal(command(fork), env=ENV)
    assert code == 0 and text.count("child\r\n") == text.count("child") == 2


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    with small_project(tmp_path_factory.mktemp("terminal"), images=16) as folder:
        assert run_small("train-repopt", train={"block": "conv_relu", "epochs": 3}).exit_code == 0
    return folder


@pytest.mark.slow
def test_a_training_shows_epochs_stops_and_ends_in_the_same_bytes(project, monkeypatch):
    monkeypatch.chdir(project)
    weights = Path("artifacts/train/weights.safetensors")
    before = weights.read_bytes()
    train = [sys.executable, "-m", "stages", "train-repopt"]
    started = start_on_terminal(train, columns=200, env=ENV)
    started.wait_for("epoch 2/3")
    started.process.send_signal(signal.SIGINT)
    assert started.process.wait(120) == 130
    started.wait_for_end()
    settled, *lines = screen(started.text(), 200)
    assert settled.startswith("waiting threads ")
    assert lines[0].startswith("train-repopt: reads artifacts/dataset, artifacts/scales, artifacts/given/")
    assert re.fullmatch(r"yolov6-quant \S+, torch \S+, Python [\d.]+; cpu, 1 CPU thread", lines[1])
    assert lines[2].startswith("training images are kept in memory once decoded")
    assert lines[3].startswith("epoch 1/3  lr ") and "stopping after this step; once more stops at once" in lines
    assert re.fullmatch(r"stopped .*; 'python -m stages train-repopt' continues from there", lines[-2])

    text, code, _ = run_on_terminal(train, columns=200, env=ENV)
    assert code == 0 and weights.read_bytes() == before
    lines = screen(text, 200)
    assert any(line.startswith("continuing after epoch ") for line in lines)
    assert lines[-2] == "next: python -m stages detect-cpu"
