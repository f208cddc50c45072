"""The commands of README and docs, run in their order by a newcomer with a small dataset and the smallest network."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from dvc.utils.hydra import apply_overrides
from ruamel.yaml import YAML
from typer.testing import CliRunner

from stages.__main__ import app
from stages.draw_sample import draw_sample
from tests.support.pages import commands_of, page, pages
from tests.support.pipeline import ROOT, STAGES, small_params
from yolov6core.models.detector import build_detector
from yolov6core.models.variants import VARIANTS

pytestmark = pytest.mark.slow

OF_FEATURES = tuple(
    f"docs/{name}.md"
    for name in (
        "bundle",
        "foreign_network",
        "official_recipe",
        "python_api",
        "story",
        "tensorrt",
        "vendor_runtimes",
    )
)
"""Pages of one feature each, whose commands run in the tests of the feature, or need a GPU or another's tools."""
CANNOT_RUN = {
    "make ": "it makes an environment, and this test is part of `make test`",
    "python3 -m venv ": "it makes an environment",
    "pip install ": "it changes the environment; a test compares the pinned torch",
    "torchrun --nnodes 2 ": "it needs two nodes",
    "python -m stages variants ": "it builds 25 networks; tests/stages/test_variants.py has two of them",
}
"""Beginning of a command -> why it is not run; `tests/test_docs.py` still compares names and options."""
SMALL = {
    "/path/to/dataset": "drawn",
    "../shared/data/BCCD": "drawn",
    "/path/to/storage": "../storage",
    "yolov6s -S train.block=published ": "test -S train.block=repvgg ",
    "calibrated.pt": "ranges.safetensors",
    "qat.epochs=10": "qat.epochs=2",
    "make_pictures.py": "make_pictures.py --images shapes_0002 shapes_0005",
    "dvc exp run -n bccd ": "dvc exp run prepare-voc2yolo -n bccd ",
    "dvc exp run --temp -S eval.samples=4": "dvc exp run prepare-voc2yolo --temp -S prepare.min_box=4.0",
    "--queue -S qat.lr=0.001,0.004": "prepare-voc2yolo --queue -S prepare.min_box=2.5,3.0",
    "NAME": "bccd",
}
"""Text of a command -> what stands there on the small dataset, or what makes it short."""
EXPERIMENTS = {
    "-S prepare.root=": ("prepare-voc2yolo",),
    "-S qat.epochs=": ("qat-distill",),
    "-S model.variant=": ("search-scales", "train-repopt"),
    "-S train.aux_head=": ("train-repopt",),
}
"""Beginning of an experiment's values -> the stages that obey them: they run in this process, on values that DVC sets.

Those behind them are left out."""
SECONDS = 240
"""A command that takes longer has failed; most take a second or two."""


def told() -> list[str]:
    """All commands of the pages, each once, but for pages of a feature."""
    names = [name for name in pages() if name not in OF_FEATURES]
    return list(dict.fromkeys(line for name in names for line in commands_of(page(name))))


def runnable() -> list[str]:
    return [line for line in told() if not line.startswith(tuple(CANNOT_RUN))]


IN_ORDER = (
    # a run, and what is told about it
    "dvc repro",
    "dvc metrics",
    "dvc plots",
    "python docs/make_pictures.py",
    "python -m stages eval-trt",
    "python -m stages qat-distill",
    "dvc checkout --force",
    "dvc checkout",
    "git checkout metrics",
    # storage, and a colleague
    "dvc remote",
    "dvc push",
    "git add .dvc/config",
    "git pull",
    "dvc pull",
    # experiments
    "python -m stages draw-sample",
    "dvc exp run -n bccd ",
    "dvc exp show",
    "dvc exp list",
    "dvc exp branch",
    "dvc exp apply",
    "git checkout . && dvc checkout",  # its values are gone from here on
    "dvc exp run --queue",
    "dvc queue status",
    "dvc queue start",
    "dvc queue stop",
    "dvc exp run --temp",
    "dvc exp run -S qat.",
    ("dvc exp run -S train.aux_head", "cp artifacts/train"),
)
"""Beginnings of commands that build on one another, as they follow; all others come behind them, as the pages do."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Git checkout of the project with small parameters, in which all stages have run."""
    folder = tmp_path_factory.mktemp("docs") / "project"
    copy_project(folder)
    draw_sample(folder.with_name("dataset"), images=16, seed=20240)
    params = small_params()
    # outside of the project, so that experiments of a queue need it as an absolute path
    params["prepare"]["root"] = str(folder.with_name("dataset"))
    params["search"]["epochs"] = params["train"]["epochs"] = 1
    params["export"]["dialects"] = ["openvino", "ort"]
    with open(folder / "params.yaml", "w", encoding="utf-8") as handle:
        YAML().dump(params, handle)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for stage in STAGES:
            stage_here(stage)
    write_inputs(folder)
    shell("git init -q -b main && git add -A && git commit -q -m 'The project'", folder)
    shell("dvc commit -q -f && git add -A && git commit -q -m 'A first run'", folder)
    shell(f"git clone -q {folder} {folder.with_name('colleague')}", folder)
    yield folder
    shell("dvc queue stop --kill || true", folder)


def copy_project(folder: Path) -> None:
    """What Git tracks or would, without the sample dataset and what only tests and pages read."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True
    )
    if listed.returncode:
        pytest.skip("not a Git checkout: what belongs to the project is not known")
    left_out = ("data/", "tests/", "metrics/", "dvc.lock", "docs/pictures/")
    for name in filter(None, listed.stdout.decode().split("\0")):
        if not name.startswith(left_out) and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)


def write_inputs(folder: Path) -> None:
    """Files that the commands name: weights of another training, pictures, parameters of one's own."""
    torch.manual_seed(0)
    network = build_detector(VARIANTS["test"], num_classes=5, block="repvgg")
    torch.save(network.state_dict(), folder / "yolov6s.pt")
    (folder / "pictures").mkdir()
    for picture in sorted(folder.with_name("dataset").rglob("*.jpg"))[:2]:
        shutil.copy(picture, folder / "pictures")
    (folder / "mine.yaml").write_text(json.dumps({"eval": {"rounds": 1}}), encoding="utf-8")


def shell(command: str, folder: Path) -> str:
    """Output of a command that has to succeed, by a user whom Git knows."""
    user = {f"GIT_{role}_{what}": "me@example.com" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))  # its python and dvc come first
    done = subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env=os.environ | user | {"OMP_NUM_THREADS": "1", "PATH": path},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def small(command: str) -> str:
    """The command on the small dataset."""
    for text, instead in SMALL.items():
        command = command.replace(text, instead)
    return command


def order(command: str) -> tuple[int, int]:
    place = next((place for place, start in enumerate(IN_ORDER) if command.startswith(start)), len(IN_ORDER))
    return place, told().index(command)


def stage_here(*arguments: str) -> None:
    """Run a command of this project in this process, which spares the imports."""
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, f"{arguments}\n{result.output}"


def experiment_here(arguments: list[str], stages: tuple[str, ...]) -> None:
    """Run the stages of `dvc exp run -S ... -S ...` on values that DVC has set in a copy of params.yaml."""
    options, values = arguments[3::2], arguments[4::2]
    assert set(options) == {"-S"}
    shutil.copy("params.yaml", "experiment.yaml")
    apply_overrides("experiment.yaml", values)
    for stage in stages:
        stage_here(stage, "--params", "experiment.yaml")


def wait_for_queue(project: Path) -> None:
    """Wait until the experiments that are queued have ended, well."""
    until = time.monotonic() + SECONDS
    while (status := shell("dvc queue status", project)).count("Success") < 2:
        assert "Failed" not in status and time.monotonic() < until, status
        time.sleep(1)


@pytest.mark.parametrize("command", sorted(runnable(), key=order), ids=lambda command: command[:60])
def test_command(command: str, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    line = small(command)
    if "pretrained/weights/yolov6s.pt" in line:
        shutil.copy("yolov6s.pt", "pretrained/weights/yolov6s.pt")
    stages = next((stages for start, stages in EXPERIMENTS.items() if line.startswith(f"dvc exp run {start}")), None)
    if stages:
        experiment_here(shlex.split(line), stages)
    elif line.startswith("python -m stages "):
        stage_here(*shlex.split(line)[3:])
    else:
        output = shell(line, project.with_name("colleague") if line in ("git pull", "dvc pull") else project)
        if line in AFTERWARDS:
            AFTERWARDS[line](project, output)


def is_up_to_date(project: Path, output: str) -> None:
    assert "up to date" in output


def has_pulled(project: Path, output: str) -> None:
    colleague = project.with_name("colleague")
    pulled = {path.name for path in (colleague / "artifacts").iterdir()}
    assert pulled == {path.name for path in (project / "artifacts").iterdir()}
    ran = re.findall(r"^Running stage '([\w-]+)'", shell("dvc repro", colleague), re.MULTILINE)
    assert ran == ["detect-cpu"], "nothing else is computed again"


def is_clean(project: Path, output: str) -> None:
    assert shell("git status --porcelain --untracked-files=no", project) == ""


def is_drawn(project: Path, output: str) -> None:
    assert (project / "dvc_plots/index.html").is_file()


def names_the_experiment(project: Path, output: str) -> None:
    assert "bccd" in output


AFTERWARDS: dict[str, Callable[[Path, str], None]] = {
    "dvc repro --dry --allow-missing": is_up_to_date,
    "dvc plots show": is_drawn,
    "dvc pull": has_pulled,
    "git checkout . && dvc checkout": is_clean,
    "dvc exp list": names_the_experiment,
    "dvc queue start": lambda project, output: wait_for_queue(project),
}
"""Command -> what it has to leave behind, where success alone says little."""


def test_every_reason_not_to_run_is_used():
    assert [start for start in CANNOT_RUN if not any(line.startswith(start) for line in told())] == []
