"""Every network family in every dialect against torch, images not square."""

from __future__ import annotations

import copy
import struct
from functools import cache

import numpy as np
import onnx
import pytest

from tests.support import families
from tests.support.speed import slow_except
from yolov6core.engines.compatibility import RUNTIME_DIALECT
from yolov6core.engines.cpu import integer_arithmetic
from yolov6core.engines.onnx_facts import slower_than_float
from yolov6core.engines.registry import RUNTIMES, open_engine
from yolov6core.engines.runtime import BuildSettings, RuntimeMissing
from yolov6core.engines.tensorrt_engine import TensorRtRuntime
from yolov6core.exchange.calibration_cache import read_cache
from yolov6core.exchange.compare import compare_outputs
from yolov6core.exchange.graph_view import GraphView
from yolov6core.exchange.interface import Interface
from yolov6core.export import qdq
from yolov6core.export.dialects import GRID, write_traced
from yolov6core.export.onnx_export import RAW_OUTPUTS, to_onnx
from yolov6core.export.onnx_run import open_detector
from yolov6core.models.decoded import DecodedNetwork, run_module
from yolov6core.quant.insert import describe, quantizers_off

FAMILIES = slow_except(families.FAMILIES, "yolov6n_v2")
FLOAT_BOUND = 2e-4
"""Relative L2: float32 sums in another order, in networks of made-up weights."""
EXACT_BOUND = 1e-5
"""The same where all that is rounded to integers is exact; prediction layers and decoding are not."""
HALF_BOUND = 0.15
IMAGES = families.dyadic(families.pixels(2, seed=5))


def traced(module, *, dynamic=False, batch=1, outputs=("boxes", "scores")):
    shape = (batch, 3, *families.IMAGE)
    return to_onnx(module, input_shape=shape, dynamic_batch=dynamic, opset=19, outputs=outputs)


@cache
def exact(name, grid, cpu="exact"):
    """The quantized network, its decoding, and an open-batch trace of it."""
    network, strides = families.float_network(name, piecewise=True)
    gm = families.exact_network(network, grid, cpu)
    decoded = DecodedNetwork(gm, strides=strides)
    return gm, decoded, traced(decoded, dynamic=True)


def error(export, module, images=IMAGES):
    found = open_detector(export.path, export.dialect)(images)
    return compare_outputs([found], [run_module(module, images)])["relative_l2"]


def distance_to_double(run, module):
    """Relative L2 of a file's outputs, or of the module's own for None, to the module in double precision: dead
    channels make some of these networks so sensitive that two orders of adding in float32 are 1e-3 apart."""
    double = copy.deepcopy(module).double()
    with quantizers_off(double.network):
        wanted = run_module(double, IMAGES.astype(np.float64))
    found = run(IMAGES) if run else run_module(module, IMAGES)
    return compare_outputs([found], [wanted])["relative_l2"]


@pytest.mark.parametrize("name", FAMILIES)
def test_int8_is_known_to_be_slower_than_float_for_lite_in_onnxruntime(tmp_path, name):
    network, strides = families.float_network(name)
    module = DecodedNetwork(families.exact_network(network, GRID["ort"], "exact"), strides=strides)
    for kind, decoded in (("float", DecodedNetwork(network, strides=strides)), ("int8", module)):
        path = write_traced(traced(decoded), tmp_path / f"{kind}.onnx", dialect="ort").path
        slower = kind == "int8" and name == "yolov6_lite_s"
        assert slower_than_float(path, "onnxruntime").count("42 of 154 convolutions are depthwise in INT8") == slower
        assert not slower_than_float(path, "openvino")


@pytest.mark.parametrize("name", FAMILIES)
def test_float_files_agree_with_torch(tmp_path, name):
    network, strides = families.float_network(name)
    decoded = DecodedNetwork(network, strides=strides)
    trace = traced(decoded, batch=2)
    for dialect in ("openvino", "ort"):
        export = write_traced(trace, tmp_path / f"{dialect}.onnx", dialect=dialect)
        assert error(export, decoded) < FLOAT_BOUND, dialect
    export = write_traced(trace, tmp_path / "half.onnx", dialect="trt", fp16=True)
    assert error(export, decoded) < HALF_BOUND


@pytest.mark.parametrize(
    "grid, dialects",
    [
        ("openvino", ("openvino",)),
        pytest.param("trt", ("trt", "openvino"), marks=pytest.mark.slow),
        pytest.param("ort", ("ort",), marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", FAMILIES)
def test_quantized_files_agree_with_torch(tmp_path, name, grid, dialects):
    """For OpenVINO with the concats through which it would compute Q/DQ wrongly."""
    gm, decoded, trace = exact(name, grid)
    errors = []
    for dialect in dialects:
        export = write_traced(trace, tmp_path / f"{dialect}.onnx", dialect=dialect)
        assert export.quantized_convs == sum(row.quantized for row in describe(gm)) < export.convs
        errors.append(error(export, decoded))
        run = open_detector(export.path, dialect)
        first = tuple(values[:1] for values in run(IMAGES))
        assert compare_outputs([first], [run(IMAGES[:1])])["relative_l2"] < EXACT_BOUND
    assert max(errors) < EXACT_BOUND
    assert errors[-1] <= 1.2 * errors[0] + 1e-7, "OpenVINO is no further from torch than ONNX Runtime"


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("name", FAMILIES)
def test_engines_agree_with_torch_on_every_cpu(tmp_path, name, runtime):
    """Integer kernels, on weights made for CPUs whose sums saturate; and on all 8 bits where sums are exact."""
    dialect = RUNTIME_DIALECT[runtime]
    suitable = {"saturating", integer_arithmetic().of(runtime)}
    for cpu in sorted(suitable):
        _, decoded, trace = exact(name, dialect, cpu)
        path = write_traced(trace, tmp_path / f"{cpu}.onnx", dialect=dialect).path
        info = RUNTIMES[runtime].build(path, tmp_path / cpu, BuildSettings(threads=1))
        assert (info.overflowing_convs == 0) == (cpu == "saturating")
        found = open_engine(tmp_path / cpu).infer(IMAGES)
        assert compare_outputs([found], [run_module(decoded, IMAGES)])["relative_l2"] < EXACT_BOUND, cpu


@pytest.mark.parametrize("name", FAMILIES)
def test_caches_hold_every_scale_of_the_quantized_graph(tmp_path, name):
    gm, decoded, trace = exact(name, "trt")
    export = write_traced(trace, tmp_path / "model.onnx", dialect="cache")
    plain = onnx.load(export.path)
    with quantizers_off(gm):
        found, own = (distance_to_double(run, decoded) for run in (open_detector(export.path, "cache"), None))
    assert found < FLOAT_BOUND + 3 * own, "as near to double precision as torch in single precision, about"
    scales = read_cache(export.cache.read_text())
    names = {name for node in plain.graph.node for name in (*node.input, *node.output)}
    assert set(scales) <= names

    view = GraphView(onnx.load(write_traced(trace, tmp_path / "trt.onnx", dialect="trt").path))
    for pair in qdq.activation_pairs(view):
        written = struct.unpack(">f", struct.pack(">f", view.array(pair.quantize.input[1]).item()))[0]
        assert scales[pair.source] == written
    by_conv = {node.name: node.input[0] for node in plain.graph.node if node.op_type == "Conv"}
    for node in view.graph.node:
        maker = view.producer.get(node.input[0]) if node.op_type == "Conv" else None
        if maker is not None and maker.op_type == "DequantizeLinear":
            assert by_conv[node.name] in scales


@pytest.mark.parametrize("dialect", ["openvino", "ort", "trt"])
@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolov6m", "yolov6n6"])
def test_raw_maps_decode_to_the_same_boxes(tmp_path, name, dialect):
    gm, decoded, _ = exact(name, GRID[dialect])
    interface = Interface(form="raw", strides=decoded.strides)
    trace = traced(gm, dynamic=True, outputs=RAW_OUTPUTS)
    export = write_traced(trace, tmp_path / "model.onnx", dialect=dialect, interface=interface)
    model = onnx.load(export.path)
    assert Interface.of(model) == interface
    assert tuple(value.name for value in model.graph.output) == interface.outputs
    assert {GraphView(model).producer[name].op_type for name in interface.outputs} == {"Conv"}
    assert error(export, decoded) < EXACT_BOUND


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_rtx_builds_every_family(tmp_path, name):
    runtime = TensorRtRuntime("tensorrt_rtx")
    try:
        runtime.version()
    except RuntimeMissing as reason:
        pytest.skip(str(reason))
    _, _, trace = exact(name, "trt")
    export = write_traced(trace, tmp_path / "model.onnx", dialect="trt", fp16=True)
    info = runtime.build(export.path, tmp_path / "engine", BuildSettings(max_batch=2))
    assert info.wanted_int8 == export.quantized_convs
    assert info.int8_convs == export.quantized_convs


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolov6s_mbla", "yolov6_lite_s"])
def test_channels_are_cut_at_constants(name):
    """The exporter writes the halves of a chunk as Slice with ends computed at run time."""
    _, _, trace = exact(name, "trt")
    view = GraphView(trace)
    cuts = [node for node in trace.graph.node if node.op_type == "Slice"]
    of_maps = [node for node in cuts if all(end in view.constants for end in node.input[1:])]
    assert len(of_maps) >= 4
    assert len(cuts) - len(of_maps) <= 2, "those of the decoding, which every file has"


def test_images_of_the_tests_are_on_the_grid():
    np.testing.assert_array_equal(IMAGES * 64, np.round(IMAGES * 64))
