import dataclasses
import json
import logging

import numpy as np
import pytest

from tests.support import patch_detector
from yolov6core.engines import onnxruntime_engine, openvino_engine, registry
from yolov6core.engines.registry import RUNTIMES, open_engine, open_file, pick_runtime, survey
from yolov6core.engines.runtime import SIDECAR, BuildSettings, EngineMismatch, RuntimeMissing, infer_any, read_info
from yolov6core.engines.torch_engine import TorchEngine
from yolov6core.export.dialects import write_dialect

SHAPE = (1, 3, 32, 32)
CPU = [("openvino", "openvino"), ("onnxruntime", "ort")]


@pytest.fixture
def built(tmp_path, toy_net):
    """(runtime, dialect) -> (folder of an engine built from the toy network, its info)."""

    def build(runtime, dialect, **settings):
        path = tmp_path / f"{dialect}.onnx"
        write_dialect(toy_net(dialect), path, dialect=dialect, input_shape=SHAPE)
        folder = tmp_path / runtime
        return folder, RUNTIMES[runtime].build(path, folder, BuildSettings(threads=1, **settings))

    return build


@pytest.mark.parametrize("runtime, dialect", CPU)
def test_every_quantized_convolution_runs_in_int8(built, toy_net, runtime, dialect):
    _, info = built(runtime, dialect)
    assert (info.int8_convs, info.wanted_int8, info.convs) == (toy_net.quantized, toy_net.quantized, 9)
    assert info.float_layers == ()


@pytest.mark.parametrize("runtime, dialect", CPU)
def test_engine_agrees_with_torch(built, toy_net, images, run_torch, distance, runtime, dialect):
    folder, _ = built(runtime, dialect)
    engine, net = open_engine(folder), toy_net(dialect)
    errors = [distance(engine.infer(image[None]), run_torch(net, image[None])) for image in images]
    assert np.mean(errors) < 0.01


def test_openvino_is_right_through_a_concat(built, toy_net, images, run_torch, distance):
    """Not further from torch than ONNX Runtime is from its own dialect's."""

    def error(runtime, dialect):
        folder, _ = built(runtime, dialect)
        return distance(open_engine(folder).infer(images[:1]), run_torch(toy_net(dialect), images[:1]))

    assert error("openvino", "openvino") <= 1.2 * error("onnxruntime", "ort") + 1e-4


def test_openvino_is_right_through_a_concat_of_signed_integers(tmp_path, toy_net, images, run_torch, distance):
    """Not further from torch than ONNX Runtime is on the same int8 grid."""
    net, image, path = toy_net("trt"), images[:1], tmp_path / "openvino.onnx"
    write_dialect(net, path, dialect="openvino", input_shape=SHAPE)
    info = RUNTIMES["openvino"].build(path, tmp_path, BuildSettings(threads=1))
    found, wanted = open_engine(tmp_path).infer(image), run_torch(net, image)
    write_dialect(net, tmp_path / "oracle.onnx", dialect="trt", input_shape=SHAPE)
    info = dataclasses.replace(info, file="oracle.onnx")
    oracle = onnxruntime_engine.OnnxRuntimeEngine(tmp_path / info.file, info).infer(image)
    assert distance(found, wanted) <= 1.2 * distance(oracle, wanted) + 1e-4


@pytest.mark.parametrize("runtime, dialect", CPU)
def test_building_twice_gives_the_same_bytes(built, runtime, dialect):
    def contents():
        folder, _ = built(runtime, dialect)
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    assert contents() == contents()


@pytest.mark.parametrize("key, value", [("version", "1.0"), ("device", "Tesla T4")])
def test_an_engine_of_another_place_is_refused(built, key, value):
    folder, info = built("openvino", "openvino")
    document = json.loads((folder / SIDECAR).read_text()) | {key: value}
    (folder / SIDECAR).write_text(json.dumps(document))
    with pytest.raises(EngineMismatch, match=f"{key} '{value}'"):
        open_engine(folder)
    (folder / SIDECAR).write_text(json.dumps(document | {"colour": "red"}))
    with pytest.raises(EngineMismatch, match="build it again"):
        open_engine(folder)
    (folder / SIDECAR).unlink()
    with pytest.raises(EngineMismatch, match="missing"):
        open_engine(folder)


def test_sidecar_comes_back_as_it_was(built):
    folder, info = built("onnxruntime", "ort")
    assert read_info(folder) == info


def test_an_engine_of_an_earlier_version_has_the_settings_that_came_later(built):
    folder, info = built("onnxruntime", "ort")
    document = json.loads((folder / SIDECAR).read_text())
    for name in ("dla_core", "hardware_compatibility", "version_compatible"):
        del document["settings"][name]
    del document["interface"]["nms_classes"]
    (folder / SIDECAR).write_text(json.dumps(document))
    assert read_info(folder) == info
    del document["settings"]["threads"]
    (folder / SIDECAR).write_text(json.dumps(document))
    with pytest.raises(EngineMismatch, match="the fields threads, .* are needed"):
        read_info(folder)


@pytest.mark.parametrize("runtime, dialect", [*CPU, ("torch", "trt")])
def test_wrong_image_shapes_are_refused(built, toy_net, runtime, dialect):
    engine = TorchEngine(toy_net("trt"), (32, 32)) if runtime == "torch" else open_engine(built(runtime, dialect)[0])
    with pytest.raises(ValueError, match="the engine takes"):
        engine.infer(np.zeros((1, 3, 64, 32), np.float32))


def test_torch_engine_equals_the_module(toy_net, images, run_torch):
    net = toy_net("trt")
    for found, wanted in zip(TorchEngine(net, (32, 32)).infer(images), run_torch(net, images), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_auto_takes_what_runs_and_says_why(monkeypatch):
    name, reason = pick_runtime("auto")
    assert next(found for found in survey() if found.runs).name == name
    assert reason.startswith("auto: ") and f"{name} " in reason
    assert pick_runtime("onnxruntime") == ("onnxruntime", "asked for")
    with pytest.raises(ValueError, match="tflite"):
        pick_runtime("tflite")
    monkeypatch.setattr(registry, "RUNTIMES", {})
    with pytest.raises(RuntimeMissing, match="no runtime"):
        pick_runtime("auto")


@pytest.mark.parametrize("runtime, dialect", [*CPU, ("torch", "trt")])
def test_streams_run_as_often_as_asked(built, toy_net, images, runtime, dialect):
    """And leave single calls as they were."""
    engine = TorchEngine(toy_net("trt"), (32, 32)) if runtime == "torch" else open_engine(built(runtime, dialect)[0])
    before = engine.infer(images[:1])
    engine.stream(images[:1], 5)
    for found, wanted in zip(engine.infer(images[:1]), before, strict=True):
        np.testing.assert_array_equal(found, wanted)
    if runtime != "torch":
        with pytest.raises(ValueError, match="the engine takes"):
            engine.stream(images, 1)


@pytest.mark.parametrize("dynamic, batch", [(False, 3), (True, -1)])
def test_any_number_of_images_goes_through_any_batch(tmp_path, toy_net, images, dynamic, batch):
    write_dialect(
        toy_net("openvino"),
        tmp_path / "m.onnx",
        dialect="openvino",
        input_shape=(3, *SHAPE[1:]),
        dynamic_batch=dynamic,
    )
    info = RUNTIMES["openvino"].build(tmp_path / "m.onnx", tmp_path / "e", BuildSettings(threads=1, max_batch=3))
    assert info.input_shape == info.inputs["images"] == (batch, *SHAPE[1:])
    assert info.outputs["scores"][0] == batch
    engine = open_engine(tmp_path / "e")
    sizes = []
    infer = engine.infer
    engine.infer = lambda part: sizes.append(len(part)) or infer(part)
    found = infer_any(engine, images)  # four of them
    assert sizes == ([3, 1] if dynamic else [3, 3])
    for index in range(4):
        alone = infer(np.repeat(images[index : index + 1], 3, axis=0))
        for whole, single in zip(found, alone, strict=True):
            np.testing.assert_allclose(whole[index], single[0], atol=1e-4)


def test_an_engine_describes_itself(built):
    _, info = built("openvino", "openvino")
    text = info.describe()
    for part in ("openvino", "INT8 in 6 of 9 convolutions", "f32 elsewhere", "1 threads", "batch 1, 32 x 32"):
        assert part in text
    assert info.int8_share == round(6 / 9, 4)


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_a_file_runs_as_its_engine_does(built, images, tmp_path, runtime):
    dialect = dict(CPU)[runtime]
    folder, info = built(runtime, dialect)
    engine, _ = open_file(tmp_path / f"{dialect}.onnx", runtime, BuildSettings(threads=1))
    assert (engine.info.int8_convs, engine.info.interface) == (info.int8_convs, info.interface)
    for found, wanted in zip(engine.infer(images[:1]), open_engine(folder).infer(images[:1]), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_auto_says_who_refused_a_file(tmp_path, toy_net):
    write_dialect(toy_net("trt"), tmp_path / "m.onnx", dialect="trt", input_shape=SHAPE)
    with pytest.raises(ValueError, match="no runtime takes .*openvino: .*; onnxruntime: .*; opencv: "):
        open_file(tmp_path / "m.onnx", "auto", BuildSettings())


def test_settings_are_checked():
    with pytest.raises(ValueError, match="hint is 'fast'"):
        BuildSettings(hint="fast")
    with pytest.raises(ValueError, match="threads is -1"):
        BuildSettings(threads=-1)
    with pytest.raises(ValueError, match="optimization_level is 6"):
        BuildSettings(optimization_level=6)


def test_onnxruntime_refuses_half_precision(built):
    with pytest.raises(ValueError, match="f32"):
        built("onnxruntime", "ort", precision="bf16")


def test_the_precision_of_the_compiled_network_is_recorded(tmp_path, monkeypatch, caplog) -> None:
    """A CPU without half precision leaves the wish out silently."""
    model = patch_detector.write_patch_detector(tmp_path / "m.onnx")
    compiled = openvino_engine._compile(model, BuildSettings(threads=1))
    assert openvino_engine.real_precision(compiled) == "f32"
    monkeypatch.setattr(openvino_engine, "_compile", lambda path, settings: compiled)
    with caplog.at_level(logging.WARNING):
        info = openvino_engine.build(model, tmp_path / "engine", BuildSettings(threads=1, precision="f16"))
    assert info.precision == "f32" and info.settings.precision == "f16" and "this CPU cannot do it" in caplog.text


@pytest.mark.parametrize(
    "setting, spins",
    [({}, True), ({"GOMP_SPINCOUNT": "1000"}, False), ({"OMP_WAIT_POLICY": "passive"}, False)]
    + [({"GOMP_SPINCOUNT": "infinity", "OMP_WAIT_POLICY": "active"}, True)],
)
def test_threads_of_onnx_runtime_wait_as_those_of_torch(monkeypatch, setting, spins):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in setting.items():
        monkeypatch.setenv(name, value)
    options = onnxruntime_engine._options(pytest.importorskip("onnxruntime"), 1)
    try:
        found = options.get_session_config_entry("session.intra_op.allow_spinning")
    except RuntimeError:  # it was not set
        found = "1"
    assert found == ("1" if spins else "0")
