"""A small project with checkpoints of every kind and its exported files, and the parameters that they are made with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch

from stages.build_trt import build_trt
from stages.export_onnx import export_onnx
from stages.params import EngineParams, EvalParams, ExportParams, RuntimeParams
from tests.support.checkpoints import write_checkpoints

SIZE = [64, 64]
RUNTIME = RuntimeParams(threads=1, workers=0, device="cpu", cache_mib=0)
EXPORT = {
    "opset": 19,
    "dialects": ["openvino", "ort", "trt", "cache"],
    "qdq_activations": "uint8",
    "batch": 1,
    "dynamic_batch": False,
    "image_size": None,
    "form": "decoded",
    "nms": "none",
    "score_threshold": 0.03,
    "iou_threshold": 0.65,
    "max_detections": 50,
    "input": "float",
    "simplify": False,
    "fp16": True,
    "naive": True,
    "check_images": 2,
    "tolerance": 0.001,
    "quant_tolerance": 1.5,
}
ENGINE = {
    "runtime": "openvino",
    "threads": 1,
    "hint": "latency",
    "precision": "f32",
    "max_batch": 4,
    "workspace_mib": 0,
    "optimization_level": 3,
    "calibration_cache": False,
}
EVAL = EvalParams(
    score_threshold=0.01,
    iou_threshold=0.65,
    max_detections=100,
    batch_size=4,
    rounds=1,
    repeats=2,
    samples=2,
)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything up to the exported files; no test changes it."""
    root, threads = tmp_path_factory.mktemp("exported"), torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        write_checkpoints(root, "ptq", "partial", "qat")
        export_onnx(ExportParams(**EXPORT), RUNTIME)
    torch.set_num_threads(threads)
    return root


@pytest.fixture(scope="session")
def built(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Runtime -> folder of its engines of the exported files, built once; no test changes them."""

    @cache
    def build(runtime: str) -> Path:
        folder = tmp_path_factory.mktemp("engines") / runtime
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(exported)
            build_trt(EngineParams(**ENGINE | {"runtime": runtime}), out=folder)
        return folder

    return build


@pytest.fixture
def here(exported: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Be in the folder of the exported files, and leave torch's threads as they were."""
    threads = torch.get_num_threads()
    monkeypatch.chdir(exported)
    yield exported
    torch.set_num_threads(threads)
