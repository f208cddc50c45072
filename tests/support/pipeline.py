"""The stages as commands, on a few drawn images and the smallest network."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from torch import nn
from typer.testing import CliRunner

from stages.__main__ import app
from stages.draw_sample import draw_sample
from stages.shared import paths
from yolov6core.base.yaml_text import parse_yaml
from yolov6core.models.card import NetworkCard, new_card
from yolov6core.models.detector import Detector, build_detector
from yolov6core.models.variants import ModelSpec
from yolov6core.param_sections import SECTIONS, Section
from yolov6core.tasks.networks import save_float

ROOT = Path(__file__).parents[2]
STAGES = list(parse_yaml((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"])
"""Names of the commands that `dvc repro` runs, in its order."""
SMALL = {
    "model": {"variant": "test", "image_size": [64, 96]},
    "prepare": {"calib_images": 4, "select_fraction": 0.25},
    "search": {"epochs": 2, "batch_size": 4, "eval_every": 2},
    "train": {"epochs": 2, "batch_size": 4, "eval_every": 1},
    "sensitivity": {"images": 2, "max_layers": 2},
    "qat": {"epochs": 1, "batch_size": 4},
    "export": {"check_images": 1},
    "engine": {"runtime": "openvino", "threads": 1},
    "eval": {"rounds": 2, "repeats": 2, "samples": 2},
    "runtime": {"threads": 1},
}


def committed_params() -> dict[str, dict[str, Any]]:
    """The document of the committed parameter file."""
    return parse_yaml((ROOT / "params.yaml").read_text(encoding="utf-8"))


def section(name: str, **changes: object) -> Any:
    """A section of the committed parameters, changed: tests cannot drift from the parameters that users get."""
    model: type[Section] = SECTIONS[name]
    return model(**committed_params()[name] | changes)


def small_params() -> dict[str, dict[str, Any]]:
    """The committed parameters, made small."""
    params = committed_params()
    for name, values in SMALL.items():
        params[name] |= values
    return params


def write_small_params(**changes: dict) -> None:
    """Write the small parameters, changed, where commands look for them."""
    params = small_params()
    for name, values in changes.items():
        params[name] |= values
    Path("params.yaml").write_text(json.dumps(params), encoding="utf-8")


def run_small(stage: str, *arguments: str, **changes: dict) -> Result:
    """Run a command with the small parameters, changed."""
    write_small_params(**changes)
    return CliRunner().invoke(app, [stage, *arguments])


@contextmanager
def small_project(folder: Path, *, images: int) -> Iterator[Path]:
    """Be in a folder with a prepared dataset of drawn images (five classes), the CPU's sums, and no scales."""
    draw_sample(folder / "data" / "sample_voc", images=images, seed=20240)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for stage in ("prepare-voc2yolo", "search-scales", "detect-cpu"):
            result = run_small(stage, search={"scales": "none"})
            assert result.exit_code == 0, result.output
        yield folder


def small_card(
    names: tuple[str, ...], *, variant: str = "test", size: tuple[int, int] = (64, 64), block: str = "published"
) -> NetworkCard:
    """The card of a small network."""
    return new_card(variant, block=block, names=names, image_size=size)


def write_float(card: NetworkCard, images: torch.Tensor, *, spec: ModelSpec | None = None) -> Detector:
    """Write the checkpoint of a float network with random weights, whose batch norm has seen `images`."""
    torch.manual_seed(0)
    network = build_detector(spec or card.spec, num_classes=card.num_classes, block=card.block)
    for module in network.modules():  # statistics of the images, so that no tensor is dead
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        network.train()(images)
    save_float(paths.WEIGHTS["float"], network, card)
    return network
