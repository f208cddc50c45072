"""Bundles are unpacked in an empty folder and check themselves there, with nothing of this project."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest

from tests.support.checkpoints import NAMES
from yolov6core.base.errors import UserError
from yolov6core.bundle.make import make_bundle
from yolov6core.bundle.request import BundleRequest
from yolov6core.exchange.calibration_cache import read_cache
from yolov6core.exchange.graph_view import count_quantized, integer_types
from yolov6core.exchange.overflow import overflowing_convolutions
from yolov6core.export.check import Tolerance
from yolov6core.export.file_form import FileForm

pytestmark = pytest.mark.usefixtures("in_bundle_project")


def request(target: str, kind: str = "qat", **options: Any) -> BundleRequest:
    """A request; options are fields of it or of the form of its files."""
    weights = Path({"qat": "artifacts/qat", "float": "artifacts/train"}[kind]) / "weights.safetensors"
    names = {field.name for field in fields(FileForm)}
    files = FileForm(**{name: value for name, value in options.items() if name in names})
    values: dict[str, Any] = {"weights": weights, "dataset": Path("artifacts/dataset"), "allow": Tolerance(0.001, 1.5)}
    values |= {name: value for name, value in options.items() if name not in names}
    return BundleRequest(kind, target, files=files, **values)


@pytest.fixture(scope="module")
def made(bundle_project, tmp_path_factory):
    """(target, kind, options) -> folder of a bundle, made once; no test changes it."""

    @cache
    def make(target: str, kind: str = "qat", **options: object) -> Path:
        out = tmp_path_factory.mktemp("bundles") / f"{kind}-{target}"
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(bundle_project)
            make_bundle(request(target, kind, **options), out)
        return out

    return make


def unpacked(bundle: Path, folder: Path) -> Path:
    """A copy of the bundle in a folder that holds nothing else."""
    return Path(shutil.copytree(bundle, folder / "device" / bundle.name))


def check(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `check.py` outside the project: isolated, so that the project cannot be imported from the present folder."""
    command = [sys.executable, "-I", str(folder / "check.py"), "--rounds", "3", "--threads", "1", *arguments]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120)


FORMS = [
    ("openvino", "qat", {}),
    ("onnxruntime", "qat", {}),
    ("onnxruntime", "float", {"form": "raw", "batch": 2}),
    ("openvino", "qat", {"nms": "topk", "nms_classes": "best", "dynamic_batch": True}),
    ("onnxruntime", "qat", {"input": "uint8", "nms": "onnx", "max_detections": 20}),
]


@pytest.mark.parametrize("target, kind, options", FORMS, ids=[f"{form[0]}-{len(form[2])}" for form in FORMS])
def test_an_unpacked_bundle_checks_itself(tmp_path, made, target, kind, options):
    folder = unpacked(made(target, kind, **options), tmp_path)
    result = check(folder)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "OK: outputs agree" in result.stdout and "images a second" in result.stdout
    assert "at most 0 of 255 apart" in result.stdout
    compared = options.get("nms", "none") == "none"
    assert ("relative error" in result.stdout) == compared


def test_check_tells_a_wrong_network_from_one_that_cannot_run(tmp_path, made):
    folder = unpacked(made("onnxruntime"), tmp_path)
    model = onnx.load(folder / "model.onnx")
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.INT8:
            tensor.raw_data = bytes(len(tensor.raw_data))  # weights of 0
    onnx.save(model, folder / "model.onnx")
    result = check(folder)
    assert result.returncode == 1 and "WRONG" in result.stdout, result.stdout + result.stderr
    (folder / "model.onnx").write_bytes(b"no network")
    result = check(folder)
    assert result.returncode == 2 and "could not run" in result.stderr


def test_another_runtime_may_be_named(tmp_path, made):
    folder = unpacked(made("onnxruntime", "float", form="raw", batch=2), tmp_path)
    result = check(folder, "--runtime", "openvino")
    assert result.returncode == 0 and result.stdout.startswith("openvino"), result.stdout + result.stderr


def test_pictures_and_numbers_are_there_for_hosts_without_python(made):
    folder = made("openvino")
    pictures = sorted((folder / "check").glob("*.png"))
    inputs = np.load(folder / "check" / "inputs.npz")["images"]
    outputs = np.load(folder / "check" / "expected.npz")
    assert len(pictures) == len(inputs) == 3
    assert inputs.shape[1:] == (3, 64, 64) and inputs.dtype == np.uint8
    assert outputs["boxes"].shape == (3, 84, 4) and outputs["scores"].shape == (3, 84, len(NAMES))
    assert all(cv2.imread(str(path)) is not None for path in pictures)
    listed = json.loads((folder / "check" / "detections.json").read_text())
    assert list(listed) == [path.name for path in pictures]
    assert (folder / "labels.txt").read_text().split() == list(NAMES)
    numbers = json.loads((folder / "preprocess.json").read_text())
    assert (numbers["image_size"], numbers["colour_order"], numbers["grey"]) == ([64, 64], "RGB", 114)
    assert numbers["scale"] == 1 / 255
    result = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=folder, capture_output=True, text=True)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert result.returncode == 0 and len(result.stdout.splitlines()) == len(files) - 1


def test_tensorrt_gets_a_file_for_each_version(made):
    models = {path.name: onnx.load(path) for path in made("tensorrt").glob("*.onnx")}
    opsets = {name: model.opset_import[0].version for name, model in models.items()}
    assert opsets == {"model.onnx": 19, "model.opset17.onnx": 17, "model.plain.onnx": 17}
    for model in models.values():
        assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    halves = {name for name, model in models.items() if any(x.data_type == 10 for x in model.graph.initializer)}
    assert halves == {"model.onnx"}
    assert integer_types(models["model.onnx"]) == integer_types(models["model.opset17.onnx"]) == {"int8"}
    assert count_quantized(models["model.onnx"]) == count_quantized(models["model.opset17.onnx"])
    assert not integer_types(models["model.plain.onnx"])
    integers = {
        name: sum(x.data_type == onnx.TensorProto.INT8 and len(x.dims) > 1 for x in model.graph.initializer)
        for name, model in models.items()
    }
    assert integers["model.onnx"] and not integers["model.opset17.onnx"], "TensorRT 8 takes no int8 weights"


VERSIONS = {
    "8": {"model.opset17.onnx", "model.plain.onnx", "calib.trt8.6.1.table", "config_infer_primary.txt"},
    "10": {"model.onnx", "model.plain.onnx", "calib.trt10.3.0.table", "config_infer_primary.txt"},
    "11": {"model.onnx"},
}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_bundle_for_one_version_has_its_files_alone(made, version):
    folder = made("tensorrt", tensorrt=version)
    every = {name for names in VERSIONS.values() for name in names}
    assert {path.name for path in folder.iterdir()} & every == VERSIONS[version]
    page = (folder / "README.md").read_text()
    assert {name for name in every if f"{name}`" in page or f"={name} " in page} == VERSIONS[version]
    if (folder / "config_infer_primary.txt").exists():
        text = (folder / "config_infer_primary.txt").read_text()
        lines = dict(line.split("=") for line in text.splitlines() if "=" in line)
        assert lines["onnx-file"] == "model.plain.onnx" and lines["int8-calib-file"] in VERSIONS[version]


def test_caches_name_tensors_of_the_plain_file_and_their_version(made):
    folder = made("tensorrt")
    graph = onnx.load(folder / "model.plain.onnx").graph
    tensors = {name for node in graph.node for name in (*node.input, *node.output)}
    texts = {path.name: path.read_text() for path in folder.glob("*.table")}
    scales = [read_cache(text) for text in texts.values()]
    assert scales[0] == scales[1] and set(scales[0]) <= tensors and "images" in scales[0]
    headers = {name: text.splitlines()[0] for name, text in texts.items()}
    assert headers == {
        "calib.trt8.6.1.table": "TRT-8601-EntropyCalibration2",
        "calib.trt10.3.0.table": "TRT-100300-EntropyCalibration2",
    }
    config = (folder / "config_infer_primary.txt").read_text()
    assert "int8-calib-file=calib.trt10.3.0.table" in config and "onnx-file=model.plain.onnx" in config


def test_the_page_names_cpus_that_the_network_is_not_for(made):
    def told(folder: Path) -> bool:
        return "Made for CPUs that add" in (folder / "README.md").read_text()

    assert not told(made("openvino", "float")) and not told(made("tensorrt"))
    overflowing = overflowing_convolutions(onnx.load(made("openvino") / "model.onnx"))
    assert told(made("openvino")) == bool(overflowing)


def test_every_file_that_the_page_and_configurations_name_is_there(made):
    for kind in ("float", "qat"):
        folder = made("tensorrt", kind)
        names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        page = (folder / "README.md").read_text()
        told = {cell.strip("`| ") for cell in page.split("|---|---|")[1].split("|")[1::3] if "`" in cell}
        assert {name for name in told if "*" not in name} <= names
        for line in page.splitlines():
            if line.startswith("trtexec"):
                files = [part.split("=")[1] for part in line.split() if part.startswith(("--onnx=", "--calib="))]
                assert set(files) <= names, line
        assert ("--calib" in page) == (kind == "qat")


def test_a_bundle_of_a_former_run_is_replaced_and_nothing_else(tmp_path, made):
    out = unpacked(made("openvino"), tmp_path)
    before = (out / "SHA256SUMS").read_bytes()
    make_bundle(request("openvino"), out)
    assert (out / "SHA256SUMS").read_bytes() == before, "equal inputs, equal bytes"
    (out / "model.engine").write_text("built on the device")
    with pytest.raises(UserError, match=r"changed since: model\.engine"):
        make_bundle(request("openvino"), out)
    (out / "model.engine").unlink()
    (out / "labels.txt").write_text("edited")
    with pytest.raises(UserError, match=r"changed since: labels\.txt"):
        make_bundle(request("onnxruntime"), out)
    assert (out / "labels.txt").read_text() == "edited"


@pytest.mark.parametrize("content", [{"notes.txt": ""}, {"bundle.json": "{}", "SHA256SUMS": ""}, {"bundle.json": "["}])
def test_a_folder_of_somebody_else_is_refused(tmp_path, content):
    out = tmp_path / "mine"
    out.mkdir()
    for name, text in content.items():
        (out / name).write_text(text)
    with pytest.raises(UserError, match="is no bundle"):
        make_bundle(request("openvino"), out)
    assert {path.name: path.read_text() for path in out.iterdir()} == content


def test_a_file_or_link_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path)
    for out in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "link"):
        with pytest.raises(UserError, match="file or a link"):
            make_bundle(request("openvino"), out)


REFUSED = [
    ("openvino", {"nms": "efficient_nms"}, "efficient_nms"),
    ("openvino", {"image_size": (64, 70)}, "multiples of"),
    ("onnxruntime", {"form": "raw", "nms": "topk"}, "decoded boxes"),
    ("openvino", {"weights": Path("none.safetensors")}, "none.safetensors"),
    ("openvino", {"dataset": Path("none")}, "none"),
    ("openvino", {"tensorrt": "10"}, "for target tensorrt"),
    ("tensorrt", {"tensorrt": "9"}, "choose one of 8, 10, 11"),
]


@pytest.mark.parametrize("target, options, reason", REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_what_cannot_be_made_is_an_error_and_leaves_nothing(tmp_path, target, options, reason):
    with pytest.raises(UserError, match=reason):
        make_bundle(request(target, **options), tmp_path / "made")
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_too_far_from_torch_is_an_error(tmp_path):
    with pytest.raises(UserError, match="relative error .* nothing was written"):
        make_bundle(request("onnxruntime", allow=Tolerance(0.0, 0.0)), tmp_path / "made")
    assert not list(tmp_path.iterdir())
