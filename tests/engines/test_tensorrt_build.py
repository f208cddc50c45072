"""Builds of the adapter with the API of every version: see tests/support/fake_tensorrt.py."""

import logging

import pytest

from tests.support.fake_tensorrt import FakeLibrary, installed, small_network
from tests.support.tensorrt_cases import VERSIONS, build, flavour, opened
from yolov6core.engines import tensorrt_import
from yolov6core.engines.onnx_facts import file_layers
from yolov6core.engines.tensorrt_build import TIMING_CACHE

every_version = pytest.mark.parametrize("library", VERSIONS, indirect=True)


@every_version
def test_every_version_builds(library, files, tmp_path):
    rtx, old = library.__version__.startswith("1.7"), library.__version__ == "8.6.1"
    plan = build(library, files["plain"], tmp_path, workspace_mib=64, optimization_level=5)
    assert plan.data == b"plan" and plan.precision == ("fp16" if old else "fp32")
    assert library.asked("IBuilderConfig.set_memory_pool_limit") == [(library.MemoryPoolType.WORKSPACE, 64 << 20)]
    assert library.asked("IBuilderConfig.builder_optimization_level") == [(5,)]
    flags = {"8.6.1": 1, "10.3.0": 1 << 1}.get(library.__version__, 1)
    assert library.asked("Builder.create_network") == [(flags,)], "each version has its own number for the flag"
    set_flags = [] if not old else [library.BuilderFlag.INT8, library.BuilderFlag.FP16]
    assert [flag for (flag,) in library.asked("IBuilderConfig.set_flag")] == set_flags
    assert bool(library.asked("init_libnvinfer_plugins")) != rtx, "plugins are registered, where there are any"
    assert (tmp_path / TIMING_CACHE).exists() != rtx


@every_version
def test_an_open_batch_has_a_profile_for_one_image_and_one_for_many(library, files, tmp_path):
    if library.__version__ == "8.6.1":
        with pytest.raises(ValueError, match=r"export.fp16=false export.opset=17, or build from the calibration cache"):
            build(library, files["open"], tmp_path)
        return
    build(library, files["open"], tmp_path)
    shapes = [tuple(shape[0] for shape in shapes) for _, *shapes in library.asked("IOptimizationProfile.set_shape")]
    rtx = library.__version__.startswith("1.")
    assert shapes == ([(1, 1, 4)] if rtx else [(1, 1, 1), (1, 4, 4)])
    assert len(library.asked("IBuilderConfig.add_optimization_profile")) == len(shapes)


@pytest.mark.parametrize("library", ["8.6.1", "10.3.0"], indirect=True)
def test_the_cache_route_keeps_float_layers_float(library, files, tmp_path, caplog):
    names = file_layers(files["cache"])
    assert len(names.float_convolutions) == 3 and names.decoding
    (up, boxes, scores), decode = names.float_convolutions, names.decoding[0]
    kinds = {up: "DECONVOLUTION", boxes: "CONVOLUTION", scores: "CONVOLUTION", decode: "ELEMENTWISE"}
    moved = names.decoding[1]
    layers = small_network(library, [*kinds.items(), (moved, "SHUFFLE"), ("/other/Conv", "CONVOLUTION")])
    plan = build(library, files["cache"], tmp_path)
    half, full = library.DataType.HALF, library.DataType.FLOAT
    assert [layer.precision for layer in layers] == [half, half, half, full, None, None]
    assert library.asked("ILayer.set_output_type") == [(0, half), (0, half), (0, half), (0, full)]
    flags = [flag.name for (flag,) in library.asked("IBuilderConfig.set_flag")]
    assert flags == ["INT8", "FP16", "OBEY_PRECISION_CONSTRAINTS"]
    assert len(library.asked("IBuilderConfig.set_calibration_profile")) == 1, "needed wherever the batch is open"
    assert plan.precision == "fp16" and len(plan.integer) + len(plan.real) == 9
    ((reader,),) = library.asked("IBuilderConfig.int8_calibrator")
    text = reader.read_calibration_cache().decode()
    header = {"8.6.1": "TRT-8601-", "10.3.0": "TRT-100300-"}[library.__version__]
    assert text.startswith(header) and "\nimages: " in text
    assert reader.get_batch_size() == 1 and reader.get_batch(["images"]) is None
    reader.write_calibration_cache(b"")
    assert not caplog.records
    small_network(library, [(up, "DECONVOLUTION"), (boxes, "CONVOLUTION"), (f"{scores}_7", "CONVOLUTION")])
    build(library, files["cache"], tmp_path)
    assert f"may run float layers in INT8, its network lacks them by name: {scores}" in caplog.text


@pytest.mark.parametrize("library", ["8.6.1"], indirect=True)
def test_weakly_typed_files_with_pairs_keep_the_decoding_in_float32(library, files, tmp_path):
    names = file_layers(files["plain"])
    kinds = [(names.float_convolutions[0], "CONVOLUTION"), (names.decoding[0], "ELEMENTWISE")]
    layers = small_network(library, kinds)
    build(library, files["plain"], tmp_path)
    assert [layer.precision for layer in layers] == [None, library.DataType.FLOAT], "Q/DQ says what is INT8"


@pytest.mark.parametrize("library", VERSIONS, indirect=True)
def test_where_an_engine_may_run_is_asked_for(library, files, tmp_path):
    options = {"hardware_compatibility": "ampere_plus", "version_compatible": True}
    build(library, files["plain"], tmp_path, **options)
    level = library.HardwareCompatibilityLevel.AMPERE_PLUS
    assert library.asked("IBuilderConfig.hardware_compatibility_level") == [(level,)]
    assert (library.BuilderFlag.VERSION_COMPATIBLE,) in library.asked("IBuilderConfig.set_flag")
    if library.__version__ in ("8.6.1", "10.3.0"):
        with pytest.raises(ValueError, match="does not have it; choose ampere_plus or none"):
            build(library, files["plain"], tmp_path, hardware_compatibility="same_compute_capability")
    else:
        build(library, files["plain"], tmp_path, hardware_compatibility="same_compute_capability")


@pytest.mark.parametrize("library", ["8.6.1", "10.3.0"], indirect=True)
def test_dla_takes_a_cache(library, files, tmp_path):
    build(library, files["fixed"], tmp_path, dla_core=1)
    assert library.asked("IBuilderConfig.DLA_core") == [(1,)]
    assert library.asked("IBuilderConfig.default_device_type") == [(library.DeviceType.DLA,)]
    assert (library.BuilderFlag.GPU_FALLBACK,) in library.asked("IBuilderConfig.set_flag")
    with pytest.raises(ValueError, match="this file has Q/DQ: set engine.calibration_cache true"):
        build(library, files["plain"], tmp_path, dla_core=1)
    with pytest.raises(ValueError, match="dla_core is 2, this device has 2 DLA cores"):
        build(library, files["fixed"], tmp_path, dla_core=2)
    with pytest.raises(ValueError, match="DLA takes batches of one size only.*export.dynamic_batch false"):
        build(library, files["cache"], tmp_path, dla_core=1)


@pytest.mark.parametrize("library", ["10.3.0"], indirect=True)
@pytest.mark.parametrize("refused", ["IBuilderConfig.create_timing_cache", "IBuilderConfig.set_timing_cache"])
def test_kernel_times_of_another_gpu_are_measured_anew(library, files, tmp_path, caplog, refused):
    (tmp_path / TIMING_CACHE).write_bytes(b"of another GPU")
    caches = iter([b"of another GPU", b""])
    answers = iter([None if "create" in refused else False, True])
    create = library.result

    def once(instance, *arguments):
        if "create" in refused:
            assert arguments == (next(caches),)
            return next(answers) and create("", "ITimingCache", None, ())
        return next(answers)

    library.behaviours[refused] = once
    library.behaviours["ITimingCache.serialize"] = lambda timings: bytearray(b"measured here")
    with caplog.at_level(logging.WARNING):
        build(library, files["plain"], tmp_path)
    assert "of another GPU, driver or TensorRT are dropped" in caplog.text
    assert (tmp_path / TIMING_CACHE).read_bytes() == b"measured here"


@every_version
def test_refusals_quote_the_library(library, files, tmp_path):
    error = object.__new__(library.ParserError)
    type(error).__str__ = lambda self: "no importer for NoSuchOperator"
    library.behaviours |= {
        "OnnxParser.parse": lambda parser, data: False,
        "OnnxParser.get_error": lambda parser, index: error,
    }
    library.values["OnnxParser.num_errors"] = 1
    with pytest.raises(ValueError, match="the parser refuses .*plain.onnx: no importer for NoSuchOperator"):
        build(library, files["plain"], tmp_path)
    library.behaviours.pop("OnnxParser.parse")

    def fail(builder, network, config):
        severity = library.ILogger.Severity.ERROR
        tensorrt_import.process_logger(flavour(library.__version__)).log(severity, "no kernel for it")
        return None

    library.behaviours["Builder.build_serialized_network"] = fail
    with pytest.raises(ValueError, match="the builder refuses .*: no kernel for it"):
        build(library, files["plain"], tmp_path)


def test_plugins_are_registered_before_an_engine_is_opened(files, tmp_path, caplog):
    library = FakeLibrary("10.3.0")
    library.values["INetworkDefinition.num_layers"] = 0
    library.behaviours["init_libnvinfer_plugins"] = lambda _, logger, namespace: False
    with installed(library), caplog.at_level(logging.WARNING):
        build(library, files["plugin"], tmp_path)
        names = [name for name, _ in library.calls]
        assert names.index("init_libnvinfer_plugins") < names.index("OnnxParser.parse")
        library.calls.clear()
        tensorrt_import.load_plugins.cache_clear()
        opened(library, tmp_path)
        names = [name for name, _ in library.calls]
        assert names.index("init_libnvinfer_plugins") < names.index("Runtime.deserialize_cuda_engine")
    assert "export.nms efficient_nms cannot be built" in caplog.text
