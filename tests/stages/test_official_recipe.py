"""The published INT8 recipe as one file of parameters, on an official checkpoint of small width and drawn images."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import onnx
import pandas as pd
import pytest
import torch
import typer.main
from typer.testing import CliRunner

from stages.__main__ import app
from stages.draw_sample import draw_sample
from stages.params import conflicts_between
from stages.shared import paths
from tests.support.golden import GOLDEN
from tests.support.pipeline import ROOT
from yolov6core.base.yaml_text import parse_yaml
from yolov6core.exchange.calibration_cache import read_cache
from yolov6core.int8.quantized_networks import load_quantized
from yolov6core.models.detector import build_detector
from yolov6core.models.rep_blocks import ScaledLinearBlock
from yolov6core.models.variants import VARIANTS
from yolov6core.param_sections import SECTIONS, ParameterFile
from yolov6core.pretrained.weights import load_weights_, read_weights
from yolov6core.tasks.networks import load_float
from yolov6core.training.repopt import load_scales

RECIPE = ROOT / "examples" / "official_recipe.yaml"
GUIDE = ROOT / "docs" / "official_recipe.md"
SEARCHED = GOLDEN / "official_scales_checkpoint.pt"
SMALL = {
    "prepare.root": "voc",
    "prepare.format": "auto",
    "prepare.train_split": "train",
    "prepare.val_split": "val",
    "prepare.select_fraction": "0.3",
    "prepare.calib_images": "4",
    "prepare.classes": "[disc, square, triangle]",
    "model.variant": "test",
    "model.image_size": "[64, 64]",
    "ptq.batch_size": "4",
    "ptq.percentiles": "[99.9]",
    "sensitivity.images": "2",
    "sensitivity.one_float": "blocks",
    "qat.epochs": "1",
    "qat.batch_size": "4",
    "qat.devices": "1",
    "export.check_images": "1",
    "runtime.threads": "1",
}
"""What makes the recipe small; the rest is the file's."""


def commands() -> list[str]:
    """Stages in the order of the guide."""
    (listed,) = re.findall(r"for stage in (.*); do", GUIDE.read_text(encoding="utf-8"))
    return listed.split()


def reopt_weights() -> dict[str, torch.Tensor]:
    """The network that the search trained, each block's branches added up to one convolution: what RepOptimizer trains.

    Its function is the official one; the release has such a file beside the scales.
    """
    given = read_weights(SEARCHED)
    network = build_detector(VARIANTS["test"], num_classes=given.num_classes, block="scaled")
    load_weights_(network, given)
    state = network.state_dict()
    for name, block in network.named_modules():
        if isinstance(block, ScaledLinearBlock):
            state[f"{name}.conv.weight"] = block.kernel().detach()
    branches = (".scale_conv.", ".scale_pointwise.", ".scale_identity.", ".pointwise.")
    return {name: tensor for name, tensor in state.items() if not any(part in name for part in branches)}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the recipe ran."""
    if not SEARCHED.is_file():
        pytest.skip(f"{SEARCHED} is absent")
    root = tmp_path_factory.mktemp("recipe")
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        draw_sample(root / "voc", images=16, seed=5)
        shutil.copy(ROOT / "params.yaml", "params.yaml")
        recipe = parse_yaml(RECIPE.read_text(encoding="utf-8"))
        files = Path(recipe["train"]["weights"]), Path(recipe["search"]["scales"])
        for file in files:
            file.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"model": reopt_weights()}, files[0])
        shutil.copy(SEARCHED, files[1])
        for stage in commands():
            changes = [f"--set={key}={value}" for key, value in SMALL.items()]
            result = CliRunner().invoke(app, [stage, "--params", str(RECIPE), *changes], catch_exceptions=False)
            assert result.exit_code == 0, f"{stage}: {result.output}"
    torch.set_num_threads(threads)
    return root


@pytest.fixture
def here(ran: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(ran)
    return ran


@pytest.mark.slow
def test_the_float_network_is_the_official_one(here):
    network, card = load_float(paths.WEIGHTS["float"])
    searched = build_detector(VARIANTS["test"], num_classes=3, block="scaled")
    load_weights_(searched, read_weights(SEARCHED))
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for ours, official in zip(network(images), searched.eval()(images), strict=True):
            torch.testing.assert_close(ours, official, rtol=1e-3, atol=1e-3)
    assert card.block == "repopt" and len(load_scales(paths.SCALES_FILE)[0]) > 10


@pytest.mark.slow
def test_ranges_are_tensorrts_and_parts_are_ranked(here):
    for kind in ("ptq", "partial", "qat"):
        _, card = load_quantized(paths.WEIGHTS[kind])
        assert card.quantization is not None and card.quantization.dialect == "trt"
    parts = pd.read_csv("artifacts/sensitivity/one_float.csv")
    assert {"backbone.stages.0", "neck.fuse.0", "head.stems.2"} <= set(parts["name"])
    assert {"distill_class", "distill_features"} <= set(pd.read_csv("artifacts/qat/epochs.csv").columns)


@pytest.mark.slow
def test_files_for_trtexec_are_plain_onnx_and_a_cache(here):
    model = onnx.load("artifacts/onnx/qat.cache.onnx")
    assert not [node for node in model.graph.node if node.op_type.endswith("QuantizeLinear")]
    assert max(entry.version for entry in model.opset_import if not entry.domain) == 17
    (cache,) = [file for file in Path("artifacts/onnx").glob("qat.cache*") if file.suffix == ".cache"]
    scales = read_cache(cache.read_text(encoding="utf-8"))
    model_qat, _ = load_quantized(paths.WEIGHTS["qat"])
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    covered = [node for node in convs if node.input[0] in scales]
    assert model_qat and len(covered) >= len(convs) - 6 > 30, "all but the prediction layers"
    assert Path("artifacts/onnx/qat.trt.onnx").is_file() and not list(Path("artifacts/onnx").glob("*.openvino.onnx"))


def test_the_file_is_right_without_changes():
    file = ParameterFile(RECIPE, base=ROOT / "params.yaml", changes=(), between=conflicts_between)
    sections = file.read(*SECTIONS.values())
    assert len(sections) == len(SECTIONS)


def test_the_guide_names_what_there_is():
    text = GUIDE.read_text(encoding="utf-8")
    recipe = parse_yaml(RECIPE.read_text(encoding="utf-8"))
    for path in (recipe["train"]["weights"], recipe["search"]["scales"]):
        assert Path(path).name in text and Path(path).parent.as_posix() in text
    named = set(typer.main.get_command(app).commands)
    used = set(re.findall(r"python -m stages ([a-z-]+)", text)) | set(commands())
    assert used <= named, used - named
