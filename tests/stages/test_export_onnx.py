"""export-onnx on a tiny network with made-up weights and real calibration."""

from __future__ import annotations

import json
import logging
import shutil

import onnx
import pytest

from stages.build_trt import build_trt
from stages.bundle import bundle
from stages.exchange_ranges import export_ranges, import_ranges
from stages.export_onnx import export_onnx
from stages.params import EngineParams, ExportParams
from stages.shared import paths
from tests.support.exported import ENGINE, EXPORT, RUNTIME
from yolov6core.base.errors import UserError
from yolov6core.engines.onnx_facts import other_integers
from yolov6core.engines.record import class_names
from yolov6core.exchange.calibration_cache import read_cache
from yolov6core.exchange.graph_view import GraphView, convolutions, integer_types
from yolov6core.exchange.interface import Interface


@pytest.mark.slow
def test_every_kind_and_dialect_is_written_and_checked(here):
    rows = json.loads((here / "artifacts/onnx/check.json").read_text())
    files = {f"{kind}.{dialect}.onnx" for kind in paths.KINDS for dialect in EXPORT["dialects"]}
    expected = files - {"float.cache.onnx", "naive.cache.onnx"}
    assert set(rows) == expected
    assert all(row["ok"] for row in rows.values())
    assert rows["float.openvino.onnx"]["relative_l2"] < 1e-4
    assert rows["partial.trt.onnx"]["quantized_convs"] == rows["ptq.trt.onnx"]["quantized_convs"] - 2
    assert rows["naive.trt.onnx"]["quantized_convs"] == rows["naive.trt.onnx"]["convs"], "predictions, too"
    files = {path.name for path in (here / "artifacts/onnx").iterdir()}
    assert {"ptq.cache", "check.json"} < files and "ptq.cache.cache" not in files
    assert rows["ptq.cache.onnx"]["quantized_convs"] == rows["ptq.trt.onnx"]["quantized_convs"]
    assert rows["ptq.openvino.onnx"]["size_mb"] < 0.6 * rows["float.openvino.onnx"]["size_mb"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"form": "raw", "batch": 2, "naive": False},
        {"nms": "topk", "nms_classes": "best", "input": "uint8", "dynamic_batch": True, "naive": False},
        {"nms": "onnx", "image_size": [64, 96], "simplify": True, "dialects": ["openvino", "ort"]},
        {"nms": "efficient_nms", "dialects": ["trt", "cache"], "opset": 20},
    ],
)
def test_other_forms_are_written_and_checked(here, tmp_path, options):
    if options.get("simplify"):
        pytest.importorskip("onnxsim")
    export = ExportParams(**EXPORT | {"dialects": ["openvino", "ort", "trt"], "score_threshold": 0.001} | options)
    export_onnx(export, RUNTIME, out=tmp_path / "onnx")
    rows = json.loads((tmp_path / "onnx" / "check.json").read_text())
    assert len(rows) == (4 + export.naive) * len(export.dialects) - 2 * ("cache" in export.dialects)
    assert all(row["ok"] for row in rows.values())
    model = onnx.load(tmp_path / "onnx" / "ptq.trt.onnx")
    interface = Interface.of(model)
    assert (interface.form, interface.nms, interface.input) == (export.form, export.nms, export.input)
    assert interface.nms_classes == export.nms_classes
    assert len(class_names(model)) == interface.classes or interface.nms == "none"
    assert tuple(value.name for value in model.graph.output) == interface.outputs
    if export.nms in ("topk", "onnx"):
        ours = [row for name, row in rows.items() if not name.startswith("naive.")]
        assert all(row["detections"] > 0 == row["detections_differ"] for row in ours)
        assert all(row["detections"] > 0 for row in rows.values())
    if "openvino" in export.dialects:
        build_trt(EngineParams(**ENGINE), onnx_folder=tmp_path / "onnx", out=tmp_path / "engines")
        sidecar = json.loads((tmp_path / "engines" / "ptq" / "engine.json").read_text())
        assert 0 <= sidecar["deviation"] < 0.05 or (sidecar["deviation"] == -1 and export.nms != "none")


@pytest.mark.slow
@pytest.mark.parametrize("activations, kind", [("uint8", "uint8"), ("int8", "int8")])
def test_plain_pairs_have_the_integers_that_are_asked_for(here, tmp_path, activations, kind):
    export = ExportParams(**EXPORT | {"dialects": ["qdq"], "qdq_activations": activations, "form": "raw"})
    export_onnx(export, RUNTIME, out=tmp_path / "onnx")
    rows = json.loads((tmp_path / "onnx" / "check.json").read_text())
    assert set(rows) == {f"{name}.qdq.onnx" for name in (*paths.WEIGHTS, "naive")}
    assert all(row["ok"] for row in rows.values())
    assert integer_types(onnx.load(tmp_path / "onnx" / "ptq.qdq.onnx")) == {kind}


@pytest.mark.slow
def test_a_dialect_that_needs_more_ranges_than_were_imported_is_named(here, tmp_path, monkeypatch):
    shutil.copytree(here, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    export_ranges("ptq", out=tmp_path / "ranges.safetensors", style="pytorch-quantization")
    import_ranges(tmp_path / "ranges.safetensors", out=paths.PTQ)
    with pytest.raises(UserError, match="no ranges for .* tensors that dialect ort quantizes.*take 'ort' out of"):
        export_onnx(ExportParams(**EXPORT | {"dialects": ["trt", "ort"]}), RUNTIME, out=tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


@pytest.mark.slow
def test_a_file_beyond_the_tolerance_stops_the_stage(here, tmp_path):
    strict = ExportParams(**EXPORT | {"dialects": ["ort"], "tolerance": 0.0})
    with pytest.raises(UserError, match=r"float\.ort\.onnx: relative error"):
        export_onnx(strict, RUNTIME, out=tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ptq", "partial"])
def test_a_cache_has_scales_on_both_sides_of_every_quantized_convolution(here, kind):
    model = onnx.load(here / f"artifacts/onnx/{kind}.cache.onnx")
    assert model.opset_import[0].version == 17, "TensorRT 8 takes caches, and no later opset"
    scales = read_cache((here / f"artifacts/onnx/{kind}.cache").read_text())
    meant = convolutions(model)
    written = convolutions(onnx.load(here / f"artifacts/onnx/{kind}.trt.onnx"))
    assert list(meant.values()) == list(written.values()), "float layers are those of the other files"
    readers = GraphView(model).readers
    for node in model.graph.node:
        if node.op_type == "Conv":
            assert node.input[0] in scales, "of a float layer, too: the layer before gives this tensor"
            behind = [node.output[0], *(name for user in readers[node.output[0]] for name in user.output)]
            assert not meant[node.name] or all(name in scales for name in behind), node.name


@pytest.mark.slow
@pytest.mark.parametrize("target, dialect", [("openvino", "openvino"), ("onnxruntime", "ort")])
def test_a_bundle_has_the_file_of_the_stage(here, tmp_path, target, dialect):
    bundle(
        ExportParams(**EXPORT), EngineParams(**ENGINE), RUNTIME, kind="partial", target=target, out=tmp_path / "made"
    )
    ours = (here / f"artifacts/onnx/partial.{dialect}.onnx").read_bytes()
    assert (tmp_path / "made" / "model.onnx").read_bytes() == ours


@pytest.mark.slow
def test_a_bundle_for_tensorrt_has_weights_and_scales_of_the_stage(here, tmp_path):
    """Its batch is open, that of the stage is not."""
    made = tmp_path / "made"
    bundle(ExportParams(**EXPORT), EngineParams(**ENGINE), RUNTIME, kind="partial", target="tensorrt", out=made)
    onnx_folder = here / "artifacts/onnx"
    scales = read_cache((onnx_folder / "partial.cache").read_text())
    assert len(scales) > 30 and read_cache((made / "calib.trt10.3.0.table").read_text()) == scales
    for name, dialect in (("model.onnx", "trt"), ("model.plain.onnx", "cache")):
        ours, theirs = (weights(path) for path in (onnx_folder / f"partial.{dialect}.onnx", made / name))
        assert len(ours) > 30 and theirs == ours


def weights(path):
    """Name -> type and bytes of the constants that are no shapes."""
    tensors = onnx.load(path).graph.initializer
    return {x.name: (x.data_type, x.raw_data) for x in tensors if x.data_type != onnx.TensorProto.INT64}


@pytest.mark.slow
def test_files_of_other_integers_than_were_judged_are_told_loudly(here, built, tmp_path, caplog):
    """The checkpoints here were calibrated in dialect trt."""
    with caplog.at_level(logging.WARNING):
        few = EXPORT | {"dialects": ["openvino"], "naive": False, "check_images": 1}
        export_onnx(ExportParams(**few), RUNTIME, engine_runtime="openvino", out=tmp_path / "onnx")
    told = [record.message for record in caplog.records if "JUDGED ON OTHER INTEGERS" in record.message]
    assert len(told) == 3 and told[0].startswith("partial.openvino.onnx: ") and "grid of dialect trt" in told[0]
    assert "set ptq.dialect" in told[0]
    assert not other_integers(here / "artifacts/onnx/ptq.trt.onnx")
    assert not other_integers(here / "artifacts/onnx/ptq.cache.onnx")
    assert not other_integers(here / "artifacts/onnx/float.openvino.onnx")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        build_trt(EngineParams(**ENGINE), out=tmp_path / "engines")
    told = [record.message for record in caplog.records if "JUDGED ON OTHER INTEGERS" in record.message]
    assert [text.split(":")[0] for text in told] == ["ptq", "partial", "qat"]


def test_parameters_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match="fp16 needs opset 19"):
        ExportParams(**EXPORT | {"opset": 17})
    with pytest.raises(ValueError, match="each once"):
        ExportParams(**EXPORT | {"dialects": ["ort", "ort"]})
    for options, message in (
        ({"form": "raw", "nms": "topk"}, "choose form decoded"),
        ({"nms": "efficient_nms"}, r"leave dialects \[trt, cache\]"),
        ({"nms": "onnx"}, r"dialects has trt, cache; leave dialects \[openvino, ort\], or choose nms topk"),
        ({"batch": 2, "dynamic_batch": True}, "a fixed batch"),
        ({"image_size": [64]}, "height, width"),
    ):
        with pytest.raises(ValueError, match=message):
            ExportParams(**EXPORT | options)
    with pytest.raises(ValueError, match="calibration_cache"):
        EngineParams(**ENGINE | {"calibration_cache": True})
