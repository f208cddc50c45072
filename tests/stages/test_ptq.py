"""What `ptq-calib` does beside choosing ranges, on a drawn dataset with one class, a depthwise network among others."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace

import pytest
import torch

from stages import ptq_calib
from stages.detect_cpu import detect_cpu
from stages.draw_sample import draw_sample
from stages.prepare_voc2yolo import prepare_voc2yolo
from stages.shared import paths
from tests.support.pipeline import section, small_card
from yolov6core.base.checkpoint import load_checkpoint
from yolov6core.base.errors import UserError
from yolov6core.base.saturation import overflows
from yolov6core.engines import registry
from yolov6core.engines.cpu import integer_arithmetic
from yolov6core.engines.runtime import RuntimeMissing
from yolov6core.int8.quantized_networks import load_quantized
from yolov6core.quant.insert import convolution_names, get_ranges, state_of
from yolov6core.quant.weights import weight_scale
from yolov6core.tasks.evaluation import SplitEvaluator
from yolov6core.tasks.networks import fresh_network, load_float, save_float

WEIGHTS = paths.WEIGHTS["ptq"]
PTQ = {"method": "mse", "percentiles": [99.99], "cpu": "exact", "batch_size": 4, "min_retention": 0.0}


def calibrate(**changes: object) -> None:
    ptq = section("ptq", **PTQ | changes)
    detect_cpu(ptq)
    ptq_calib.ptq_calib(ptq, section("eval"), section("runtime", threads=1))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A dataset of one class, made of the sample's."""
    root = tmp_path_factory.mktemp("pipeline")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        draw_sample(root / "voc", images=12, seed=5)
        for path in (root / "voc").rglob("*.xml"):
            text = path.read_text(encoding="utf-8")
            start, end = "<name>", "</name>"
            pieces = [piece.split(end, 1)[-1] for piece in text.split(start)]
            path.write_text(pieces[0] + "".join(f"{start}thing{end}{piece}" for piece in pieces[1:]), encoding="utf-8")
        prepare_voc2yolo(section("prepare", root="voc", calib_images=4, val_fraction=0.25))
    return root


@pytest.fixture
def pipeline(workplace, monkeypatch):
    monkeypatch.chdir(workplace)

    def checkpoint(name: str) -> None:
        torch.manual_seed(0)
        card = small_card(("thing",), variant=name)
        save_float(paths.WEIGHTS["float"], fresh_network(card), card)

    return checkpoint


def outputs() -> list[torch.Tensor]:
    gm, _ = load_quantized(WEIGHTS)
    with torch.no_grad():
        return list(gm(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))))


def test_one_class_is_enough(pipeline):
    pipeline("test")
    calibrate(**{"method": "auto"})
    gm, card = load_quantized(WEIGHTS)
    assert card.names == ("thing",) and outputs()[0].shape[-1] == 1
    assert all(low <= high for low, high in get_ranges(gm).values())
    with open("metrics/ptq.json", encoding="utf-8") as handle:
        assert 0 <= json.load(handle)["map50_95"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"equalize": "cross_layer"}, {"adaround": 3}, {"bias_correction": "fast"}])
def test_every_change_reaches_the_file_and_the_report(pipeline, change):
    pipeline("test")
    calibrate()
    plain = outputs()
    calibrate(**change)
    changed = outputs()
    assert not torch.equal(changed[0], plain[0])
    network, _ = load_float(paths.WEIGHTS["float"])
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for ours, reference in zip(changed, network(x), strict=True):
            assert float((ours - reference).norm() / reference.norm()) < 0.1
    with open("artifacts/ptq/methods.json", encoding="utf-8") as handle:
        compared = set(json.load(handle)["select"])
    assert compared == {"float", "mse"} | (set(change) & {"adaround", "bias_correction"})


@pytest.mark.slow
@pytest.mark.parametrize("cpu", ["exact", "saturating", "auto"])
def test_the_cpu_is_written_down_and_obeyed(pipeline, cpu):
    pipeline("test")
    calibrate(**{"cpu": cpu})
    gm, card = load_quantized(WEIGHTS)
    sums = integer_arithmetic().sums if cpu == "auto" else cpu
    assert card.quantization.cpu == state_of(gm).cpu == sums
    convolutions = [conv for conv in map(gm.get_submodule, convolution_names(gm)) if conv.active]
    scales = [weight_scale(conv.weight_range()).view(-1, 1, 1, 1) for conv in convolutions]
    integers = [(conv.effective_weight() / scale).round() for conv, scale in zip(convolutions, scales, strict=True)]
    unsafe = [overflows(values, conv.groups) for values, conv in zip(integers, convolutions, strict=True)]
    assert any(unsafe) == (sums == "exact")


@pytest.mark.parametrize("cpu", ["exact", "saturating", "auto"])
def test_dvc_sees_what_the_cpu_is(pipeline, cpu):
    detect_cpu(section("ptq", cpu=cpu))
    expected = integer_arithmetic().sums if cpu == "auto" else cpu
    assert json.loads(paths.CPU.read_text()) == {"asked": cpu, "meaning": expected}


def no_gpu() -> str:
    raise RuntimeMissing("no GPU")


@pytest.mark.parametrize(
    ("asked", "runtime", "dialect"),
    [
        ("auto", "tensorrt", "trt"),  # also where it is not installed: the engine may be built elsewhere
        ("auto", "onnxruntime", "ort"),
        ("auto", "auto", "openvino"),
        ("trt", "auto", "trt"),
    ],
)
def test_dvc_sees_which_integers_are_judged(pipeline, monkeypatch, asked, runtime, dialect):
    monkeypatch.setattr(registry, "cuda_device", no_gpu)
    detect_cpu(section("ptq", dialect=asked), runtime)
    assert json.loads(paths.DIALECT.read_text()) == {"asked": asked, "meaning": dialect}


def test_auto_without_any_runtime_asks_for_a_dialect(pipeline, monkeypatch):
    monkeypatch.setattr(registry, "RUNTIMES", {})
    with pytest.raises(UserError, match="ptq.dialect auto: no runtime .*; set ptq.dialect to openvino, ort or trt"):
        detect_cpu(section("ptq"))


@pytest.mark.slow
def test_the_grid_follows_the_runtime(pipeline):
    pipeline("test")
    detect_cpu(section("ptq", **PTQ), "tensorrt")
    ptq_calib.ptq_calib(section("ptq", **PTQ), section("eval"), section("runtime", threads=1))
    gm, card = load_quantized(WEIGHTS)
    assert card.quantization.dialect == state_of(gm).dialect.name == "trt"


@pytest.mark.slow
def test_predictions_are_quantized_on_demand(pipeline):
    pipeline("test")
    calibrate()
    plain, (gm, card) = outputs(), load_quantized(WEIGHTS)
    predictions = {name for name in convolution_names(gm) if "_preds." in name}
    assert set(card.quantization.float_layers) == predictions and len(predictions) == 6
    calibrate(**{"predictions": "int8", "float_layers": ["head.cls_preds.*"]})
    gm, card = load_quantized(WEIGHTS)
    assert set(card.quantization.float_layers) == {name for name in predictions if "cls" in name}
    assert torch.equal(outputs()[0], plain[0]) and not torch.equal(outputs()[1], plain[1])


@pytest.mark.slow
def test_depthwise_inputs_are_scaled_by_default(pipeline):
    pipeline("yolov6_lite_s")
    calibrate()
    tensors, _ = load_checkpoint(WEIGHTS)
    scaled = [name for name in tensors if name.startswith("input_scales.")]
    assert scaled and all(torch.isfinite(output).all() for output in outputs())
    calibrate(**{"equalize": "none"})
    tensors, _ = load_checkpoint(WEIGHTS)
    assert not any(name.startswith("input_scales.") for name in tensors)


def test_a_failure_names_the_tensors_to_blame(pipeline, monkeypatch, caplog):
    scores = iter([0.5, 0.4, 0.5, 0.4])  # float and PTQ, on select and on val

    def evaluate(self, network):
        score = next(scores)
        return SimpleNamespace(stats={"map50_95": score, "map50": score}, detections={}, per_class={})

    monkeypatch.setattr(SplitEvaluator, "__call__", evaluate)
    pipeline("test")
    with caplog.at_level(logging.WARNING), pytest.raises(UserError, match=r"keeps 80\.0 % of the float"):
        calibrate(**{"min_retention": 0.9, "on_failure": "fail"})
    table = next(record.getMessage() for record in caplog.records if "signal-to-noise" in record.getMessage())
    _, header, *rows = table.splitlines()
    assert header.split() == ["tensor", "dB", "worst", "channel", "step"] and len(rows) == 8
    ratios = [float(row.split()[1]) for row in rows]
    assert ratios == sorted(ratios)
