"""Calibration by TensorRT itself, with the API of every version: see tests/support/fake_tensorrt.py."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from tests.support.fake_tensorrt import CpuMemory, installed, small_network
from tests.support.tensorrt_api import Unreachable, bindings, default_cache
from tests.support.tensorrt_cases import JSON, SCALES_FOUND, calibrate_in_builds, flavour, new_library
from yolov6core.engines import tensorrt_engine
from yolov6core.engines.onnx_facts import OnnxFacts, file_layers
from yolov6core.engines.runtime import BuildSettings, RuntimeMissing, read_info
from yolov6core.engines.tensorrt_calibration import SCALES, batch_of
from yolov6core.engines.tensorrt_engine import TensorRtRuntime
from yolov6core.exchange.compare import compare_outputs
from yolov6core.exchange.interface import Interface
from yolov6core.export.dialects import write_traced
from yolov6core.export.onnx_export import to_onnx

SIZE = (16, 24)
with_calibrator = pytest.mark.parametrize("library", ["8.6.1", "10.3.0"], indirect=True)


class Small(nn.Module):
    """A float network of three convolutions, with a decoding behind them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.boxes, self.scores = nn.Conv2d(3, 8, 3, 8, 1), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 2, 1)

    def forward(self, images):
        x = self.stem(images).relu()
        return self.boxes(x).flatten(2).transpose(1, 2) * 8, self.scores(x).flatten(2).transpose(1, 2).sigmoid()


class Images:
    """Five images, as the stage gives them; `broken` is the number of the batch that cannot be read."""

    def __init__(self, count=5, broken=None, error=ValueError):
        self.pictures = np.random.default_rng(0).integers(0, 256, (count, 3, *SIZE)).astype(np.float32) / 255
        self.broken, self.error, self.asked = broken, error, []

    def __len__(self):
        return len(self.pictures)

    def batches(self, *, image_size, shrink, batch_size):
        self.asked.append((image_size, shrink, batch_size))
        for number, start in enumerate(range(0, len(self), batch_size)):
            if number == self.broken:
                raise self.error("image 3.jpg cannot be decoded")
            yield self.pictures[start : start + batch_size]


@pytest.fixture(scope="module")
def write(tmp_path_factory):
    """Writes the float file in some form, in half precision unless it is for TensorRT 8; returns its path."""
    folder = tmp_path_factory.mktemp("calibration")

    def written(version="10.3.0", *, batch=1, dynamic=False, pixels="float", shrink=0):
        old = version.startswith("8.")
        shape = (batch, 3, *SIZE)
        traced = to_onnx(Small().eval(), input_shape=shape, dynamic_batch=dynamic, opset=17 if old else 19)
        path = folder / f"{version}-{batch}-{dynamic}-{pixels}.onnx"
        interface = Interface(input=pixels, shrink=shrink)
        return write_traced(traced, path, dialect="trt", fp16=not old, interface=interface).path

    return written


@pytest.fixture
def on_gpu(monkeypatch):
    """A GPU by name, and the CPU's memory in the place of its own."""
    monkeypatch.setattr(tensorrt_engine, "cuda_device", lambda: "T4")
    monkeypatch.setattr(tensorrt_engine, "CudaMemory", CpuMemory)


def build(path, folder, images, **settings):
    return TensorRtRuntime("tensorrt").build_calibrated(path, folder, BuildSettings(max_batch=4, **settings), images)


@with_calibrator
def test_tensorrt_gets_every_image_and_its_scales_are_kept(library, write, on_gpu, tmp_path, caplog):
    path, images = write(library.__version__), Images()
    parsed = []
    library.behaviours["OnnxParser.parse"] = lambda parser, data: parsed.append(data) or True
    decode = file_layers(path).decoding[0]
    (layer,) = small_network(library, [(decode, "ELEMENTWISE")])
    given = calibrate_in_builds(library, (1, 3, *SIZE))
    info = build(path, tmp_path / "naive", images)
    assert np.array_equal(np.concatenate(given), images.pictures) and images.asked == [(SIZE, 0, 1)]
    assert (tmp_path / "naive" / SCALES).read_bytes() == SCALES_FOUND
    flags = [flag.name for (flag,) in library.asked("IBuilderConfig.set_flag")]
    assert flags == ["INT8", "FP16", "OBEY_PRECISION_CONSTRAINTS"] and layer.precision == library.DataType.FLOAT
    explicit = {"8.6.1": 1, "10.3.0": 1}[library.__version__]
    assert library.asked("Builder.create_network") == [(explicit,)], "weakly typed: EXPLICIT_BATCH, member 0"
    assert not library.asked("IBuilderConfig.set_calibration_profile")
    (model,) = map(onnx.load_from_string, parsed)
    assert {tensor.data_type for tensor in model.graph.initializer} == {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}
    assert read_info(tmp_path / "naive") == info and (info.dialect, info.device) == ("calibrated", "T4")
    assert (info.int8_convs, info.wanted_int8, info.convs, info.precision) == (0, 0, 3, "fp16")
    assert "runs nothing in INT8" in caplog.text


@with_calibrator
def test_what_runs_in_int8_is_counted_as_wanted(library, write, on_gpu, tmp_path, caplog):
    path = write(library.__version__)
    layers = JSON.replace('"a"', f'"{file_layers(path).convolutions[0]}"')
    library.behaviours["EngineInspector.get_engine_information"] = lambda inspector, form: layers
    calibrate_in_builds(library, (1, 3, *SIZE))
    info = build(path, tmp_path / "naive", Images())
    assert (info.int8_convs, info.wanted_int8, info.float_layers) == (1, 1, ())
    assert "INT8 in 1 of 3 convolutions, fp16 elsewhere" in info.describe() and not caplog.records


@with_calibrator
def test_an_open_batch_has_a_profile_to_calibrate_with(library, write, on_gpu, tmp_path):
    path, images = write(library.__version__, dynamic=True), Images(count=6)
    given = calibrate_in_builds(library, (6, 3, *SIZE))
    build(path, tmp_path / "naive", images)
    assert np.array_equal(given, images.pictures[None])
    shapes = [tuple(shape[0] for shape in shapes) for _, *shapes in library.asked("IOptimizationProfile.set_shape")]
    assert shapes == [(1, 1, 1), (1, 4, 4), (6, 6, 6)]
    assert len(library.asked("IBuilderConfig.set_calibration_profile")) == 1
    assert len(library.asked("IBuilderConfig.add_optimization_profile")) == 2
    library.behaviours["IBuilderConfig.set_calibration_profile"] = lambda config, profile: False
    with pytest.raises(ValueError, match="refuses to calibrate on batches of 6 images"):
        build(path, tmp_path / "naive", images)


@with_calibrator
def test_a_fixed_batch_is_filled_up(library, write, on_gpu, tmp_path):
    images = Images(count=6)
    given = calibrate_in_builds(library, (4, 3, *SIZE))
    build(write(library.__version__, batch=4), tmp_path / "naive", images)
    assert np.array_equal(np.concatenate(given), images.pictures[[0, 1, 2, 3, 4, 5, 4, 5]])


@with_calibrator
def test_pixels_are_fed_as_the_file_takes_them(library, write, on_gpu, tmp_path):
    images = Images(count=2)
    given = calibrate_in_builds(library, (1, *SIZE, 3), ctypes.c_uint8)
    build(write(library.__version__, pixels="uint8", shrink=4), tmp_path / "naive", images)
    pixels = np.rint(images.pictures * 255).astype(np.uint8).transpose(0, 2, 3, 1)[..., ::-1]
    assert np.array_equal(np.concatenate(given), pixels) and images.asked == [(SIZE, 4, 1)]


@with_calibrator
@pytest.mark.parametrize("broken", [0, 2])
def test_an_unreadable_image_stops_the_build(library, write, on_gpu, tmp_path, broken):
    """TensorRT goes on with the batches that it has; with none it gives up without a word on the image."""
    calibrate_in_builds(library, (1, 3, *SIZE))
    if not broken:
        library.behaviours["Builder.build_serialized_network"] = lambda builder, network, config: config.__dict__[
            "int8_calibrator"
        ].get_batch(["images"])
    with pytest.raises(ValueError, match=r"calibration: image 3\.jpg cannot be decoded"):
        build(write(library.__version__), tmp_path / "naive", Images(broken=broken))
    assert not (tmp_path / "naive" / "model.engine").exists() and not (tmp_path / "naive" / SCALES).exists()


@with_calibrator
@pytest.mark.parametrize("error", [KeyboardInterrupt, AssertionError])
def test_anything_else_in_a_callback_ends_the_build_as_it_is(library, write, on_gpu, tmp_path, error):
    calibrate_in_builds(library, (1, 3, *SIZE))
    with pytest.raises(error):
        build(write(library.__version__), tmp_path / "naive", Images(broken=1, error=error))


@with_calibrator
def test_a_failure_of_the_gpu_is_told(library, write, on_gpu, tmp_path, monkeypatch):
    class Full(CpuMemory):
        def device(self, shape, dtype):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(tensorrt_engine, "CudaMemory", Full)
    given = calibrate_in_builds(library, (1, 3, *SIZE))
    with pytest.raises(ValueError, match=r"cannot be copied to the GPU \(OutOfMemoryError: CUDA out of memory\)"):
        build(write(library.__version__), tmp_path / "naive", Images())
    assert not given


@with_calibrator
def test_a_build_that_did_not_calibrate_is_none(library, write, on_gpu, tmp_path):
    with pytest.raises(ValueError, match="has built an engine and found no scales"):
        build(write(library.__version__), tmp_path / "naive", Images())


@with_calibrator
def test_a_file_with_quantizers_is_not_calibrated(library, files, on_gpu, tmp_path):
    with pytest.raises(ValueError, match="quantizes 6 convolutions itself; TensorRT calibrates float files only"):
        build(files["plain"], tmp_path / "naive", Images())


def test_dla_takes_a_calibrated_network(write, on_gpu, tmp_path):
    with installed(new_library("10.3.0")) as library:
        calibrate_in_builds(library, (1, 3, *SIZE))
        build(write(), tmp_path / "naive", Images(), dla_core=1)
        assert library.asked("IBuilderConfig.DLA_core") == [(1,)]


@pytest.mark.parametrize(
    ("version", "able"), [("8.6.1", True), ("10.3.0", True), ("11.4.0.106", False), ("rtx", False)]
)
def test_versions_from_11_on_have_no_calibrator(version, able):
    with installed(new_library(version), flavour(version)):
        assert TensorRtRuntime(flavour(version)).calibrates() == able


@pytest.mark.parametrize(("fixed", "count", "size"), [(4, 5, 4), (-1, 64, 8), (-1, 100, 5), (-1, 7, 7), (-1, 13, 1)])
def test_open_batches_count_every_image_once(fixed, count, size):
    assert batch_of(OnnxFacts("trt", "fp32", (fixed, 3, 8, 8), 0, 1), count) == size


IN_REAL_BINDINGS = """
import sys
from pathlib import Path
from tests.engines.test_tensorrt_calibration import SIZE, CpuMemory, Images, OnnxFacts
from tests.support.tensorrt_api import load_library
from yolov6core.engines.tensorrt_calibration import calibrator_of, raise_failure, scales_of
sys.modules["tensorrt"] = load_library(Path(sys.argv[1]))
facts = OnnxFacts("calibrated", "fp32", (1, 3, *SIZE), 0, 1)
calibrator = calibrator_of("tensorrt", facts, Images(broken=1), CpuMemory())
assert isinstance(calibrator, sys.modules["tensorrt"].IInt8EntropyCalibrator2)
assert calibrator.get_algorithm().name == "ENTROPY_CALIBRATION_2" and calibrator.get_batch_size() == 1
(address,) = calibrator.get_batch(["images"])
assert address and calibrator.get_batch(["images"]) is None and calibrator.read_calibration_cache() is None
calibrator.write_calibration_cache(memoryview(b"scales"))
assert scales_of(calibrator) == b"scales"
raise_failure(calibrator)
"""


@pytest.mark.slow
@pytest.mark.parametrize("version", ["8.6.1", "10.3.0"])
def test_the_real_bindings_take_the_calibrator(version):
    """They load without TensorRT's libraries, see tests/support/tensorrt_api.py."""
    try:
        module, stubs = bindings(version, default_cache())
    except Unreachable as error:
        pytest.skip(str(error))
    assert b"Exception caught in get_batch()" in module.read_bytes(), "what a callback raises is printed, no more"
    paths = {"LD_LIBRARY_PATH": str(stubs), "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", IN_REAL_BINDINGS, str(module)]
    found = subprocess.run(command, env=os.environ | paths, capture_output=True, text=True)
    assert found.stderr.strip().endswith("ValueError: calibration: image 3.jpg cannot be decoded"), found.stderr


@pytest.mark.gpu
def test_a_calibrated_engine_agrees_with_the_float_one_on_a_gpu(write, tmp_path):
    runtime, images = TensorRtRuntime("tensorrt"), Images(count=16)
    try:
        path = write(runtime.version())
        runtime.device()
    except RuntimeMissing as error:
        pytest.skip(str(error))
    if not runtime.calibrates():
        pytest.skip(f"TensorRT {runtime.version()} has no calibrator")
    calibrated = runtime.build_calibrated(path, tmp_path / "naive", BuildSettings(), images)
    real = runtime.build(path, tmp_path / "float", BuildSettings())
    assert calibrated.int8_convs > 0 == real.int8_convs
    assert b"images: " in (tmp_path / "naive" / SCALES).read_bytes()
    found, wanted = (
        runtime.load(tmp_path / name, info).infer(images.pictures[:1])
        for name, info in (("naive", calibrated), ("float", real))
    )
    assert 0 < compare_outputs([found], [wanted])["relative_l2"] < 0.1
