"""`eval`: one table over weights, ONNX files and engines, which agrees with the evaluators of the stages."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from click.testing import Result
from safetensors.torch import save_file

from stages.shared import paths
from tests.support import patch_detector
from tests.support.dataset_folder import NAMES, make_dataset
from tests.support.golden import GOLDEN
from tests.support.pipeline import run_small, small_card
from tests.support.quantized_start import write_start
from yolov6core.data.dataset import DetectionDataset
from yolov6core.engines.registry import RUNTIMES
from yolov6core.engines.runtime import BuildSettings
from yolov6core.evaluation.evaluator import DetectionLimits
from yolov6core.export.dialects import write_dialect
from yolov6core.int8.quantized_networks import load_quantized
from yolov6core.models.decoded import DecodedNetwork
from yolov6core.models.variants import VARIANTS
from yolov6core.pretrained.infer_spec import infer_spec
from yolov6core.pretrained.weights import empty_network, load_weights_, read_weights
from yolov6core.tasks.evaluation import SplitEvaluator
from yolov6core.tasks.networks import load_float

MODELS = ["float.safetensors", "ptq.safetensors", "tensors.safetensors", "open.onnx", "engine"]
QUICK = {"rounds": 1, "repeats": 2, "score_threshold": 0.01}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared dataset, and one untrained network as checkpoints, plain tensors, ONNX file and engine."""
    root = tmp_path_factory.mktemp("eval")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        (root / "artifacts").mkdir()
        make_dataset(root, splits=("val", "calib")).rename(paths.DATASET)
        write_start(small_card(tuple(NAMES)))
        shutil.copy(paths.WEIGHTS["float"], "float.safetensors")
        shutil.copy(paths.WEIGHTS["ptq"], "ptq.safetensors")
        network, card = load_float(paths.WEIGHTS["float"])
        save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, "tensors.safetensors")
        decoded = DecodedNetwork(network, strides=card.strides, image_size=card.image_size)
        shape = (1, 3, *card.image_size)
        write_dialect(decoded, Path("open.onnx"), dialect="openvino", input_shape=shape, dynamic_batch=True)
        write_dialect(decoded, Path("single.onnx"), dialect="openvino", input_shape=shape)
        RUNTIMES["openvino"].build(Path("single.onnx"), Path("engine"), BuildSettings(threads=1))
    return root


@pytest.fixture(autouse=True)
def project(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)


def run(*arguments: object) -> Result:
    return run_small("eval", *map(str, arguments), eval=QUICK, model={"image_size": [64, 64]})


def test_the_table_agrees_with_the_evaluators_of_the_stages(tmp_path):
    result = run(*MODELS, "--out", tmp_path / "t.csv")
    assert result.exit_code == 0, result.output
    table = pd.read_csv(tmp_path / "t.csv", index_col="model")
    assert list(table.index) == MODELS and all(name in result.output for name in MODELS)
    limits, card = DetectionLimits(0.01, 0.65, 300), small_card(tuple(NAMES))
    evaluate = SplitEvaluator(DetectionDataset(paths.DATASET, "val"), card, batch_size=4, limits=limits)
    expected = {"ptq.safetensors": load_quantized(paths.WEIGHTS["ptq"])[0]}
    network, _ = load_float(paths.WEIGHTS["float"])
    for name in MODELS:
        stats = evaluate(expected.get(name, network)).stats
        assert table["map50"][name] == pytest.approx(stats["map50"], abs=2e-4), name
        assert table["map50_95"][name] == pytest.approx(stats["map50_95"], abs=2e-4), name
    assert table["map50"].max() > 0, "the network must find something"
    assert list(table["int8_convs"]) == ["0/43", "37/43 simulated", "0/43", "0/43", "0/43"]
    assert list(table["runtime"]) == [*["torch"] * 3, *["openvino"] * 2]
    assert (table["fps_1"] > 0).all() and table["fps_32"].isna().tolist() == [False] * 4 + [True]
    assert "no speed at batch 32 of engine: export.dynamic_batch=true opens it" in result.output


@pytest.mark.slow
def test_a_file_runs_in_every_runtime_that_is_named():
    result = run("open.onnx", "--runtime", "openvino", "--runtime", "onnxruntime", "--split", "calib")
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.output.splitlines() if line.lstrip().startswith("open.onnx (")]
    rows = [row for row in rows if "0/43" in row]
    assert [row[1:3] for row in rows] == [["(openvino)", "openvino"], ["(onnxruntime)", "onnxruntime"]]
    assert rows[0][5:7] == rows[1][5:7], "the same figures"


@pytest.mark.slow
def test_a_checkpoint_of_the_official_trainer_is_a_model(monkeypatch, tmp_path):
    path = GOLDEN / "official_checkpoint_small_stripped.pt"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    given = read_weights(path)
    spec = infer_spec(given.tensors)
    monkeypatch.setitem(VARIANTS, "golden", spec)  # its width is not a published one
    result = run(path, "--out", tmp_path / "t.csv")
    assert result.exit_code == 0, result.output
    network = empty_network(spec, "repvgg", given)
    load_weights_(network, given)
    card = replace(small_card(tuple(NAMES)), spec=spec)
    dataset, limits = DetectionDataset(paths.DATASET, "val"), DetectionLimits(0.01, 0.65, 300)
    stats = SplitEvaluator(dataset, card, batch_size=4, limits=limits)(network.eval()).stats
    row = pd.read_csv(tmp_path / "t.csv").iloc[0]
    assert row["map50"] == pytest.approx(stats["map50"], abs=2e-4) and row["runtime"] == "torch"
    assert "its classes are called red, green, blue" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.pt"], "absent.pt does not exist"),
        (["absent"], "absent is neither an ONNX file nor a folder with an engine.json"),
        (["float.safetensors", "--split", "test"], "--split test is unknown; choose one of train, select, val, calib"),
        (["float.safetensors", "--out", "float.safetensors"], "is the source itself, which would be overwritten"),
        (["open.onnx", "--runtime", "tensorflow"], "tensorflow does not run ONNX files; choose auto or one of"),
        (["images/picture_001.png"], "is neither an ONNX file nor a folder with an engine.json"),
    ],
)
def test_what_cannot_be_evaluated_is_named_in_one_line(arguments, message):
    refused(run(*arguments), message)


def test_classes_are_compared_before_anything_is_evaluated(monkeypatch, tmp_path):
    monkeypatch.setattr("stages.eval.evaluate_engine", lambda *_, **__: pytest.fail("it was evaluated"))
    write_other(tmp_path / "two.safetensors")
    refused(run("float.safetensors", tmp_path / "two.safetensors"), "two.safetensors has 2 classes, the dataset 3")


@pytest.mark.slow
def test_other_names_of_classes_are_told(tmp_path):
    path = patch_detector.write_patch_detector(tmp_path / "patches.onnx")
    result = run(path)
    assert result.exit_code == 0, result.output
    assert "its classes are called red, green, blue, those of the dataset disc, square, cross" in result.output


def test_a_table_that_is_there_is_kept_and_nothing_is_evaluated(tmp_path):
    (tmp_path / "t.csv").write_text("mine")
    refused(run("absent.onnx", "--out", tmp_path / "t.csv"), "t.csv exists, and no table is overwritten")
    assert (tmp_path / "t.csv").read_text() == "mine"


def write_other(path: Path) -> None:
    """Tensors of a network of two classes."""
    network, _ = load_float(paths.WEIGHTS["float"])
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    two = {name: tensor[:2].clone() for name, tensor in tensors.items() if name.startswith("head.cls_preds.")}
    save_file(tensors | two, path)
    assert torch.equal(two["head.cls_preds.0.bias"], tensors["head.cls_preds.0.bias"][:2])


def refused(result: Result, *parts: str) -> None:
    assert result.exit_code == 1, result.output
    line = result.output.strip().splitlines()[-1]
    assert line.startswith("error: ") and all(part in line for part in parts), line
