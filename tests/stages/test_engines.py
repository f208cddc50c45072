"""build-trt and eval-trt on files of a tiny network with made-up weights and real calibration."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import cv2
import pandas as pd
import pytest
import torch

from stages import build_trt as build_trt_stage
from stages.build_trt import build_trt
from stages.eval_trt import eval_trt
from stages.export_onnx import export_onnx
from stages.params import EngineParams, ExportParams
from stages.shared import paths
from tests.support.checkpoints import NAMES, write_checkpoints
from tests.support.exported import ENGINE, EVAL, EXPORT, RUNTIME, SIZE
from tests.support.fake_tensorrt import CpuMemory, installed
from tests.support.tensorrt_cases import SCALES_FOUND, calibrate_in_builds, new_library
from yolov6core.base.errors import UserError
from yolov6core.data.dataset import DetectionDataset
from yolov6core.data.views import image_batches
from yolov6core.engines import cpu, registry, tensorrt_engine
from yolov6core.engines.complaints import missing_int8, no_gain
from yolov6core.engines.cpu import IntegerArithmetic, integer_arithmetic
from yolov6core.engines.registry import RUNTIMES, open_engine
from yolov6core.engines.runtime import RuntimeMissing, infer_any
from yolov6core.engines.tensorrt_calibration import SCALES
from yolov6core.evaluation.evaluator import evaluate
from yolov6core.models.decoded import predictor
from yolov6core.tasks.networks import load_float


@pytest.mark.slow
def test_the_comparison_with_the_tool_can_be_left_out(here, built, tmp_path, monkeypatch):
    few = EXPORT | {"dialects": ["openvino"], "check_images": 1}
    export_onnx(ExportParams(**few | {"naive": False}), RUNTIME, out=tmp_path / "onnx")
    assert not list((tmp_path / "onnx").glob("naive*"))
    engines = shutil.copytree(built("openvino"), tmp_path / "engines", ignore=shutil.ignore_patterns("naive"))
    (engines / "ptq" / SCALES).write_bytes(bytes(3 * 10**7))
    eval_trt(EVAL, engines_dir=engines, out=tmp_path / "eval", metrics=tmp_path / "metrics")
    assert json.loads((tmp_path / "metrics/naive.json").read_text()) == {}, "DVC misses no file"
    table = pd.read_csv(tmp_path / "eval/table.csv").set_index("kind")
    assert list(table.index) == list(paths.WEIGHTS)
    assert table.loc["ptq", "size_mb"] < table.loc["float", "size_mb"], "a calibration cache is no part of an engine"

    def refuses(*_args, **_options):
        raise RuntimeError("no such operator")

    monkeypatch.setattr("stages.export_onnx.quantized_by_library", refuses)
    with pytest.raises(UserError, match="RuntimeError: no such operator.*set export.naive to false"):
        export_onnx(ExportParams(**few), RUNTIME, out=tmp_path / "again")


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_engines_are_built_and_compared(here, built, tmp_path, runtime):
    engines, out, metrics = built(runtime), tmp_path / "eval", tmp_path / "metrics"
    eval_trt(EVAL, engines_dir=engines, out=out, metrics=metrics)
    table = pd.read_csv(out / "table.csv").set_index("kind")
    rows = {name: table.loc[name].to_dict() for name in paths.KINDS}
    for name, row in rows.items():
        told = json.loads((metrics / f"{name}.json").read_text())
        assert list(told) == ["map50_95", "map50", "latency_ms", "size_mb", "speedup"]
        assert told == pytest.approx({key: row[key] for key in told}, abs=1e-5)
    assert rows["float"]["speedup"] == 1 and rows["float"]["int8_convs"] == 0
    stem_anyway = runtime == "onnxruntime"  # one of the two layers that `partial` leaves float
    assert rows["ptq"]["int8_convs"] == rows["partial"]["int8_convs"] + 2 - stem_anyway > 30
    sidecar = json.loads((engines / "ptq" / "engine.json").read_text())
    assert sidecar["names"] == list(NAMES)
    assert sidecar["int8_convs"] == sidecar["wanted_int8"]
    assert list(table.index) == list(paths.KINDS)
    assert set(pd.read_csv(out / "per_class.csv")["class"]) == set(NAMES)
    assert {"kind", "class", "recall", "precision"} == set(pd.read_csv(out / "pr.csv").columns)
    assert len(list((out / "samples").glob("*.jpg"))) == 2
    assert rows["float"]["drop_error"] == 0 and rows["float"]["agreement"] == 1
    assert set(pd.read_csv(out / "detections.csv").columns) > {"kind", "image", "class_index", "score"}
    assert json.loads((out / "environment.json").read_text())["cpu"]
    _check_times(rows, pd.read_csv(out / "rounds.csv"))
    _check_curves(out)


def _check_times(rows, rounds):
    for name, row in rows.items():
        assert 0 < row["latency_ms"] <= row["latency_p90_ms"] <= row["latency_p99_ms"]
        assert 0 < row["pre_ms"] < 100 and 0 < row["post_ms"] < 100
        assert row["end_to_end_ms"] > row["post_ms"]
        assert rounds[rounds["kind"] == name]["fps"].median() == pytest.approx(row["fps"], rel=0.01)


def _check_curves(out):
    assert {"kind", "class", "confidence", "precision", "recall", "f1"} == set(pd.read_csv(out / "f1.csv").columns)
    for name in paths.KINDS:
        assert len(pd.read_csv(out / "curves" / f"pr_{name}.csv")) == 101
        assert len(pd.read_csv(out / "curves" / f"f1_{name}.csv")) == 100
        pairs = pd.read_csv(out / "curves" / f"confusion_{name}.csv")
        counts = pd.read_csv(out / "confusion.csv").query("kind == @name")
        assert counts["count"].sum() == len(pairs)
        assert set(pairs["actual"]) <= {*NAMES, "background"}
    assert cv2.imread(str(out / "summary.png")).shape == (400, 600, 3)


class Pretended:
    """The val split with the best detections of a network as its ground truth: weights are random, mAP is not."""

    def __init__(self, predict):
        self._dataset = DetectionDataset("artifacts/dataset", "val")
        self.names, self.eval_batches = self._dataset.names, self._dataset.eval_batches
        self.ground_truth = self._dataset.ground_truth
        self.best = evaluate(predict, self, image_size=tuple(SIZE), batch_size=6, **LOW).detections
        self.ground_truth = self._of_the_network

    def _of_the_network(self):
        rows = [(image_id, row) for image_id, found in self.best.items() for row in found[:30:3].tolist()]
        annotations = [
            {
                "id": number,
                "image_id": image_id,
                "category_id": int(label) + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": 0,
            }
            for number, (image_id, (x1, y1, x2, y2, _, label)) in enumerate(rows, start=1)
        ]
        return self._dataset.ground_truth() | {"annotations": annotations}


LOW = {"score_threshold": 0.0, "iou_threshold": 0.65, "max_detections": 100}


def _predict():
    network, card = load_float(paths.WEIGHTS["float"])
    return predictor(network, card.strides)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_float_engine_has_the_map_of_torch(here, built, runtime):
    """Within 0.05 points, on the same images with the same suppression."""
    engine, predict = open_engine(built(runtime) / "float"), _predict()
    dataset = Pretended(predict)
    found, wanted = (
        evaluate(call, dataset, image_size=tuple(SIZE), batch_size=6, **LOW).stats
        for call in (lambda images: infer_any(engine, images.numpy()), predict)
    )
    assert 0.2 < wanted["map50_95"] < 0.95
    for key in ("map50_95", "map50", "ar100"):
        assert abs(found[key] - wanted[key]) <= 0.0005


def test_an_engine_without_gain_is_shouted_about():
    info = SimpleNamespace(
        wanted_int8=3, int8_convs=1, convs=5, runtime="onnxruntime", float_layers=("stem.conv", "neck.conv")
    )
    assert no_gain(info, 0.8).startswith("NOT FASTER THAN FLOAT (0.8 times). 1 of 5 convolutions run in INT8")
    assert missing_int8(info).endswith(
        "quantizes 3 convolutions, onnxruntime runs only 1 of them in INT8; float layers: stem.conv, neck.conv"
    )
    assert not no_gain(info, 1.2) and not no_gain(info, None)
    info.int8_convs = 3
    assert not missing_int8(info)


@pytest.mark.slow
@pytest.mark.parametrize("runtime, dialect", [("openvino", "openvino"), ("onnxruntime", "ort")])
def test_what_an_unsuitable_cpu_makes_of_engines_is_told_and_stops_nothing(
    tmp_path, monkeypatch, caplog, runtime, dialect
):
    monkeypatch.chdir(tmp_path)
    write_checkpoints(tmp_path, "ptq", "partial", "qat", cpu="exact")
    with caplog.at_level("INFO"):
        export_onnx(ExportParams(**EXPORT | {"dialects": [dialect], "naive": False}), RUNTIME)
    assert "ptq is for CPUs with exact sums (ptq.cpu): without VNNI, sums overflow in" in caplog.text
    pretended = IntegerArithmetic("saturating", dict.fromkeys(("openvino", "onnxruntime"), "saturating"), ())
    monkeypatch.setattr(cpu, "integer_arithmetic", lambda: pretended)
    caplog.clear()
    build_trt(EngineParams(**ENGINE | {"runtime": runtime}))
    eval_trt(EVAL)
    wrong = runtime == "openvino"
    told = "WRONG SUMS" if wrong else "INT8 WITHOUT GAIN"
    messages = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    for name in ("ptq", "partial", "qat"):
        assert sum(message.startswith(f"{name}: {told}") for message in messages) == 2, "once built, once evaluated"
        count = json.loads((tmp_path / f"artifacts/engines/{name}/engine.json").read_text())["overflowing_convs"]
        table = pd.read_csv(tmp_path / "artifacts/eval/table.csv").set_index("kind")
        assert count > 30 and table.loc[name, "wrong_convs"] == (count if wrong else 0)
        assert any(f"{name}: {told}" in text and "in exact arithmetic" in text for text in messages) == wrong
    assert not any(message.startswith("float") for message in messages)


@pytest.mark.slow
def test_int8_that_is_known_to_be_slower_is_refused_or_told(here, monkeypatch, tmp_path, caplog):
    of_ort = {"runtime": "onnxruntime"}
    monkeypatch.setattr(build_trt_stage, "slower_than_float", lambda source, _: "DEPTHWISE" * ("ptq." in source.name))
    with pytest.raises(
        UserError, match=r"ptq\.ort\.onnx: DEPTHWISE; set engine.runtime to openvino.*slower_int8 to allow"
    ):
        build_trt(EngineParams(**ENGINE | of_ort), out=tmp_path / "engines")
    assert not (tmp_path / "engines").exists()
    build_trt(EngineParams(**ENGINE | of_ort | {"slower_int8": "allow"}), out=tmp_path / "engines")
    assert "ptq: DEPTHWISE" in caplog.text and (tmp_path / "engines/ptq/engine.json").is_file()


@pytest.mark.slow
def test_engines_are_compared_with_exact_arithmetic(here, built, tmp_path, caplog):
    sidecars = {path.parent.name: json.loads(path.read_text()) for path in built("openvino").glob("*/engine.json")}
    assert set(sidecars) == set(paths.KINDS)
    assert sidecars["float"]["deviation"] == -1
    assert all(0 <= sidecars[name]["deviation"] < 0.05 for name in ("naive", "ptq", "partial", "qat"))
    assert {sidecar["cpu_sums"] for sidecar in sidecars.values()} == {integer_arithmetic().of("openvino")}
    rows = json.loads((here / "artifacts/onnx/check.json").read_text())
    rows["ptq.openvino.onnx"]["allowed_l2"] = -1.0
    onnx_folder = tmp_path / "onnx"
    shutil.copytree(here / "artifacts/onnx", onnx_folder)
    (onnx_folder / "check.json").write_text(json.dumps(rows))
    build_trt(EngineParams(**ENGINE), onnx_folder=onnx_folder, out=tmp_path / "again")
    assert "ptq: openvino 2" in caplog.text and "computes the file wrongly" in caplog.text


@pytest.mark.slow
def test_rtx_takes_every_file_and_says_that_it_cannot_run(here, tmp_path):
    try:
        RUNTIMES["tensorrt_rtx"].version()
    except RuntimeMissing as error:
        pytest.skip(str(error))
    engines = tmp_path / "engines"
    build_trt(EngineParams(**ENGINE | {"runtime": "tensorrt_rtx"}), out=engines)
    for name in ("ptq", "partial", "qat"):
        sidecar = json.loads((engines / name / "engine.json").read_text())
        assert sidecar["int8_convs"] == sidecar["wanted_int8"] > 0
        assert sidecar["precision"] == "fp16"
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="choose another engine.runtime"):
            eval_trt(EVAL, engines_dir=engines, out=tmp_path / "eval", metrics=tmp_path / "metrics")


@pytest.fixture
def on_gpu(monkeypatch, tmp_path):
    """A GPU by name, and the CPU's memory in the place of its own."""
    for module in (registry, tensorrt_engine):
        monkeypatch.setattr(module, "cuda_device", lambda: "T4")
    monkeypatch.setattr(tensorrt_engine, "CudaMemory", CpuMemory)
    monkeypatch.setattr(build_trt_stage, "TIMINGS", tmp_path / "timings")


TENSORRT = EngineParams(**ENGINE | {"runtime": "tensorrt"})


@pytest.mark.slow
@pytest.mark.parametrize("version", ["8.6.1", "10.3.0", "11.4.0.106"])
def test_tensorrt_calibrates_the_naive_kind_itself_where_it_can(here, on_gpu, tmp_path, caplog, version):
    onnx_folder = paths.ONNX
    if version == "8.6.1":
        onnx_folder = tmp_path / "onnx"
        old = {"dialects": ["trt"], "opset": 17, "fp16": False, "check_images": 1}
        export_onnx(ExportParams(**EXPORT | old), RUNTIME, out=onnx_folder)
    with installed(new_library(version)) as library, caplog.at_level("INFO"):
        given = calibrate_in_builds(library, (1, 3, *SIZE))
        build_trt(TENSORRT, onnx_folder=onnx_folder, out=tmp_path / "engines")
        if version == "8.6.1":
            with pytest.raises(UserError, match=r"FP16 scales, \d+ weights of type int8|opset 19: export it again"):
                build_trt(TENSORRT, out=tmp_path / "again")
    sidecars = {kind: json.loads((tmp_path / f"engines/{kind}/engine.json").read_text()) for kind in paths.KINDS}
    scales = [path.parent.name for path in (tmp_path / "engines").glob("*/calibration.cache")]
    naive = sidecars.pop("naive")
    assert {sidecar["dialect"] for sidecar in sidecars.values()} == {"trt"}
    if version == "11.4.0.106":
        assert not given and not scales and naive["dialect"] == "trt" and naive["wanted_int8"] == naive["convs"]
        assert f"naive: tensorrt {version} has no calibration of its own" in caplog.text
        return
    assert scales == ["naive"] and naive["dialect"] == "calibrated"
    assert (tmp_path / "engines/naive/calibration.cache").read_bytes() == SCALES_FOUND
    assert f"naive: tensorrt {version} calibrates itself on 6 images" in caplog.text
    dataset = DetectionDataset(paths.DATASET, "calib")
    (wanted,) = image_batches(dataset, image_size=(SIZE[0], SIZE[1]), batch_size=6)
    assert torch.equal(torch.cat([torch.from_numpy(batch) for batch in given]), wanted)


@pytest.mark.slow
def test_images_that_cannot_be_calibrated_on_are_told(here, on_gpu, tmp_path, monkeypatch):
    dataset = shutil.copytree(paths.DATASET, tmp_path / "dataset")
    monkeypatch.setattr(paths, "DATASET", dataset)
    with installed(new_library("10.3.0")) as library:
        calibrate_in_builds(library, (1, 3, *SIZE))
        (dataset / "calib.txt").write_text("gone/picture_001.png\n")
        with pytest.raises(
            UserError, match=r"float\.trt\.onnx: calibration: image gone/picture_001.png cannot be read"
        ):
            build_trt(TENSORRT, out=tmp_path / "engines")
        (dataset / "calib.txt").unlink()
        library.calls.clear()
        with pytest.raises(UserError, match=r"naive: .* on images: .*calib.txt is missing.* export.naive=false"):
            build_trt(TENSORRT, out=tmp_path / "engines")
        assert not library.asked("Builder.create_network"), "told before the first build"
    assert not (tmp_path / "engines").exists()


@pytest.mark.slow
def test_building_twice_gives_the_same_files(here, built, tmp_path):
    def contents(folder):
        return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    build_trt(EngineParams(**ENGINE), out=tmp_path / "again")
    assert contents(built("openvino")) == contents(tmp_path / "again")


@pytest.mark.slow
def test_an_engine_of_another_version_is_refused_with_the_command(here, built, tmp_path):
    engines = shutil.copytree(built("openvino"), tmp_path / "engines")
    path = engines / "ptq" / "engine.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": "2019.1"}))
    with pytest.raises(UserError, match="dvc repro --force build-trt"):
        eval_trt(EVAL, engines_dir=engines, out=tmp_path / "eval", metrics=tmp_path / "metrics")


@pytest.mark.slow
def test_a_missing_dialect_is_named(here, tmp_path):
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "float.trt.onnx").touch()
    with pytest.raises(UserError, match="add 'openvino' to export.dialects"):
        build_trt(EngineParams(**ENGINE), onnx_folder=tmp_path / "onnx", out=tmp_path / "engines")
    with pytest.raises(UserError, match="dvc repro export-onnx"):
        build_trt(EngineParams(**ENGINE), onnx_folder=tmp_path / "none", out=tmp_path / "engines")
