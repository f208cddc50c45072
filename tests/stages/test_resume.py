"""Whatever ends a training, the same command continues it and ends in the same bytes."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from stages.__main__ import app
from stages.draw_sample import draw_sample
from stages.shared import shell
from tests.support.pipeline import ROOT, small_params
from yolov6core.base import atomic
from yolov6core.losses import detection
from yolov6core.training import interruption, loop

pytestmark = pytest.mark.slow

OUTS = {
    "search-scales": Path("artifacts/scales/scales.safetensors"),
    "train-repopt": Path("artifacts/train/weights.safetensors"),
    "qat-distill": Path("artifacts/qat/weights.safetensors"),
}
STEPS = {"search-scales": 4, "train-repopt": 6, "qat-distill": 4}
"""At least so many steps every training has."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> dict[str, bytes]:
    """What uninterrupted trainings gave, in a folder where every stage up to QAT has run."""
    folder = tmp_path_factory.mktemp("resume")
    draw_sample(folder / "data" / "sample_voc", images=16, seed=20240)
    params = small_params()
    params["train"]["epochs"], params["qat"]["epochs"] = 3, 2
    params["train"]["weights"] = params["search"]["scales"] = None
    (folder / "params.yaml").write_text(json.dumps(params), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for stage in ("prepare-voc2yolo", "search-scales", "train-repopt", "detect-cpu", "ptq-calib", "qat-distill"):
            assert run(stage)[0] == 0
        return {"folder": folder} | {stage: out.read_bytes() for stage, out in OUTS.items()}


@pytest.fixture
def project(finished, monkeypatch) -> dict[str, bytes]:
    monkeypatch.chdir(finished["folder"])
    return finished


def run(stage: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, [stage])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


class Dead(BaseException):
    """What stands for a kill inside this process: nothing in the project may catch it."""


def at_step(number: int, action: Callable[[], None]) -> Callable:
    """`set_step_` that does something at the so-many-th step from now on (from 1)."""
    count = iter(range(1, 10_000))
    real = loop.set_step_

    def set_step_(*arguments) -> None:
        if next(count) == number:
            action()
        real(*arguments)

    return set_step_


def die() -> None:
    raise Dead


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("stage", OUTS)
def test_killed_and_stopped_at_drawn_steps(project, monkeypatch, stage):
    draw = random.Random(stage)
    killed, stopped = draw.randint(1, STEPS[stage]), draw.randint(1, STEPS[stage])
    where = f"killed at step {killed}, stopped at step {stopped} after it"
    with monkeypatch.context() as patch:
        patch.setattr(interruption, "SAVE_SECONDS", 0.0)  # every step is saved
        patch.setattr(loop, "set_step_", at_step(killed, die))
        with pytest.raises(Dead):
            run(stage)
    assert OUTS[stage].read_bytes() == project[stage], "an interrupted run leaves the old outputs"
    OUTS[stage].unlink()
    with monkeypatch.context() as patch:
        patch.setattr(loop, "set_step_", at_step(stopped, ctrl_c))
        code, output = run(stage)
    if "stopping after this step" in output:
        assert code == 130 and "' continues from there" in output, output
        code, output = run(stage)
        assert "continuing after epoch" in output
    assert code == 0 and OUTS[stage].read_bytes() == project[stage], where
    assert not list(Path(".ckpt", stage).rglob("*.safetensors")), "a finished run leaves no state"


DRIVER = """
import os, signal, sys
from stages.__main__ import app
from yolov6core.base import atomic
from yolov6core.training import interruption, loop

kind, number = sys.argv.pop(1), int(sys.argv.pop(1))
place = {"step": loop, "write": atomic}[kind]
name = {"step": "set_step_", "write": "write_to_disk"}[kind]
real, count = getattr(place, name), iter(range(1, 10_000))
interruption.SAVE_SECONDS = 0.0

def deadly(*arguments):
    real(*arguments)
    if next(count) == number:
        if kind == "write":
            os.truncate(arguments[0], len(arguments[1]) // 2)
        os.kill(os.getpid(), signal.SIGKILL)

setattr(place, name, deadly)
app(prog_name="python -m stages")
"""
"""The stages in a process that kills itself in a step, or with half a state written."""


def test_two_real_kills_one_of_them_while_the_state_is_written(project):
    draw = random.Random(0)
    kills = [("write", draw.randint(2, 4)), ("step", draw.randint(1, 4))]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for kind, number in kills:
        arguments = [sys.executable, "-c", DRIVER, kind, str(number), "train-repopt"]
        assert subprocess.run(arguments, env=environment, capture_output=True).returncode == -signal.SIGKILL, kills
    code, output = run("train-repopt")
    assert code == 0 and "continuing after epoch" in output, kills
    assert OUTS["train-repopt"].read_bytes() == project["train-repopt"], kills
    assert not list(Path(".ckpt").rglob("*.tmp")), "what was half written goes with the rest"


def test_the_second_ctrl_c_stops_at_once(project, monkeypatch):
    def twice() -> None:
        ctrl_c()
        ctrl_c()

    monkeypatch.setattr(loop, "set_step_", at_step(2, twice))
    # shells let background commands, such as these tests, ignore it
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code, output = run("train-repopt")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert code == 130 and "continues from there" not in output
    assert not list(Path(".ckpt").rglob("*.safetensors")), "nothing more was saved"


def test_a_full_disk_leaves_the_last_good_state(project, monkeypatch):
    real, kept = atomic.write_to_disk, []

    def write_to_disk(path, data) -> None:
        if kept:
            real(path, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        real(path, data)
        kept.append(data)

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "write_to_disk", write_to_disk)
        code, output = run("train-repopt")
    assert code == 1
    for part in ("No space left on device", "the last good one is kept", "Make room", "continues from there"):
        assert part in output, output
    (state,) = Path(".ckpt/train-repopt").rglob("*.safetensors*")
    assert state.read_bytes() == kept[0]
    code, output = run("train-repopt")
    assert "continuing after epoch 1 of 3" in output
    assert code == 0 and OUTS["train-repopt"].read_bytes() == project["train-repopt"]


SMALL_DISK = """
mkdir small && mount -t tmpfs -o size=32m none small || exit 77
cp -a "$PROJECT/." small && rm -rf small/.ckpt && ln -s ../state small/.ckpt && cd small
for stage in prepare-voc2yolo train-repopt; do
    cat /dev/zero 2>/dev/null >filler
    python -m stages $stage; echo "full: exit $?"
    ls -d artifacts/*.tmp artifacts/*/*.tmp metrics/*.tmp
    rm filler
    python -m stages $stage; echo "room: exit $?"
done
cp -a artifacts ..
"""


def test_a_disk_that_is_full_at_the_end_costs_no_training(project, tmp_path):
    """On a real small file system: the training keeps its state elsewhere, and outputs find no room."""
    if sys.platform != "linux" or subprocess.run(["unshare", "-rm", "true"]).returncode:
        pytest.skip("no mount of one's own")
    (tmp_path / "state").mkdir()
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", SMALL_DISK],
        cwd=tmp_path,
        env={**os.environ, "PROJECT": str(project["folder"]), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode == 77:
        pytest.skip("no mount of one's own")
    assert "Traceback" not in done.stdout, done.stdout
    for folder in ("dataset", "train"):
        assert f"error: artifacts/{folder} could not be written (No space left on device)" in done.stdout
    assert "continuing after epoch 3 of 3" in done.stdout
    assert (tmp_path / OUTS["train-repopt"]).read_bytes() == project["train-repopt"]
    assert done.stdout.count("full: exit 1") == done.stdout.count("room: exit 0") == 2
    assert ".tmp\n" not in done.stdout
    assert not list((tmp_path / "state").rglob("*.safetensors*")), "the state goes when the outputs are written"


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_loader_processes_change_no_byte(project, workers):
    text = Path("params.yaml").read_text()
    try:
        Path("params.yaml").write_text(text.replace("workers: 0", f"workers: {workers}"))
        assert run("train-repopt")[0] == 0
    finally:
        Path("params.yaml").write_text(text)
    assert OUTS["train-repopt"].read_bytes() == project["train-repopt"]


def test_two_at_once_are_refused(project, monkeypatch):
    answers = []
    monkeypatch.setattr(shell, "LOCK_SECONDS", 0.0)
    monkeypatch.setattr(loop, "set_step_", at_step(2, lambda: answers.append(run("train-repopt"))))
    assert run("train-repopt")[0] == 0
    ((code, output),) = answers
    assert code == 1 and f"process {os.getpid()} is already at the stage train-repopt here" in output


def test_a_loss_that_is_not_finite_is_kept_with_its_batch(project, monkeypatch):
    real = detection.varifocal
    monkeypatch.setattr(detection, "varifocal", lambda *arguments: real(*arguments) * float("nan"))
    code, output = run("train-repopt")
    assert code == 1 and "loss is not finite at step 0 (class nan, iou " in output
    (path,) = Path(".ckpt/train-repopt").rglob("not_finite_0.npz")
    assert str(path) in output
    batch = np.load(path)
    assert batch["images"].shape == (4, 3, 64, 96) and batch["targets"].shape[1] == 6


def test_a_damaged_state_is_named(project, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(loop, "set_step_", at_step(2, ctrl_c))
        assert run("train-repopt")[0] == 130
    (state,) = Path(".ckpt/train-repopt").rglob("*.safetensors")
    os.truncate(state, 1000)
    code, output = run("train-repopt")
    assert code == 1 and str(state) in output and "delete it to start again" in output
    state.unlink()
    assert run("train-repopt")[0] == 0
